/**
 * Fills a disk of the daemon bit by bit, when nobody minds. A line for cron, for 256 MiB each quarter of an hour by night:
 *
 *     0,15,30,45 1-5 * * *  node /opt/step-by-cron.ts vm1 256
 */
import { readFile, rm, writeFile } from "node:fs/promises";
import { unixTransport } from "streamdisk";
import { DaemonClient } from "streamdisk/client";

const MIB = 2 ** 20;
const [name = "vm1", mebibytes = "256"] = process.argv.slice(2);
const daemon = new DaemonClient(unixTransport(process.env["STREAMDISK_DAEMON"] ?? "/var/lib/streamdisk/daemon.sock"));
const disk = daemon.disk(name);

// Only for not having to look from the beginning each time: what is missing, the image knows itself.
const place = `${name}.offset`;
let offset = Number(await readFile(place, "utf8").catch(() => "0"));
for (let left = Number(mebibytes) * MIB; left > 0; ) {
  const { next, copied, done } = await disk.step({ offset, length: Math.min(left, 64 * MIB) });
  if (done) {
    await rm(place, { force: true });
    console.log(`${name} stands alone: take this line out of your crontab`);
    break;
  }
  offset = next;
  left -= Math.max(copied, MIB);
  await writeFile(place, String(offset));
  console.log(`${name}: ${copied} bytes fetched, to go on at ${offset}`);
}
