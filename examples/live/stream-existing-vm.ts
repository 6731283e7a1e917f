/**
 * Frees a machine that runs already from the image below its disk, without a daemon: `node stream-existing-vm.ts /run/vm1.qmp vda`.
 * Nothing but a QMP socket of its own is needed of its QEMU: `-qmp unix:/run/vm1.qmp,server=on,wait=off`.
 */
import { describeDomain, RunningDomain } from "streamdisk/domain";

const [qmp = "/run/vm1.qmp", disk = "vda"] = process.argv.slice(2);
const MIB = 2 ** 20;

await using machine = new RunningDomain({ qmp, description: { name: "vm1", disks: [] } });
machine.description = await describeDomain(machine.qmp, "vm1"); // or of its XML: parseDomainXml
for (const { target, alias, source } of machine.description.disks) console.log(target, alias, source);

const before = await machine.tally(disk);
console.log(`${disk}: ${before.missing / MIB} MiB are missing`);

// Ctrl-C leaves what has been fetched, and takes out again what was put into QEMU.
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());
const stream = await machine.stream(disk, { speed: 100 * MIB, signal: stop.signal, retryFor: 60_000 });
for await (const { state, missingBytes, rate } of stream) {
  console.log(`${state}: ${missingBytes / MIB} MiB missing, ${Math.round(rate / MIB)} MiB/s`);
}
console.log(`${disk} stands alone`);
