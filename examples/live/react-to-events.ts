/**
 * Does something when something happens to disks: here it counts who waits for a source, and says when an image may be switched off. It misses
 * nothing, over restarts of the daemon and of itself: the id of the last event is kept in a file.
 */
import { readFile, writeFile } from "node:fs/promises";
import { unixTransport } from "streamdisk";
import { DaemonClient } from "streamdisk/client";

const daemon = new DaemonClient(unixTransport(process.env["STREAMDISK_DAEMON"] ?? "/var/lib/streamdisk/daemon.sock"));
const bookmark = "last-event";
const after = Number(await readFile(bookmark, "utf8").catch(() => "0"));
const waiting = new Set<string>();

for await (const { id, type, disk = "", source, message } of daemon.watch({ after })) {
  switch (type) {
    case "waiting":
      waiting.add(disk);
      console.log(`ALARM ${message} (${waiting.size} waiting)`);
      break;
    case "running":
      if (waiting.delete(disk)) console.log(`OK ${disk} goes on`);
      break;
    case "hydrated":
      console.log(`DONE ${disk} needs its source no more`);
      break;
    case "source-free":
      console.log(`FREE ${source} may be switched off`);
      break;
  }
  // After the act: one that was interrupted is done again.
  await writeFile(bookmark, String(id));
}
