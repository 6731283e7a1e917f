/**
 * Makes a machine from an image, which runs at once, and waits until its disk needs that image no more:
 * `node deploy-and-wait.ts https://images.example/debian.qcow2 vm1 -m 2G -nic user`
 */
import { setTimeout as sleep } from "node:timers/promises";
import { unixTransport } from "streamdisk";
import { DaemonClient } from "streamdisk/client";

const MIB = 2 ** 20;
const [image = "https://images.example/debian.qcow2", name = "vm1", ...args] = process.argv.slice(2);
const daemon = new DaemonClient(unixTransport(process.env["STREAMDISK_DAEMON"] ?? "/var/lib/streamdisk/daemon.sock"));

// All of it is made, or nothing.
const body = { name, image, speed: 200 * MIB, machine: { args } };
const { overlay, steps } = await daemon.call("deploy", { body });
for (const { name: step, ms } of steps) console.log(`${step}: ${ms} ms`);
console.log(`${name} runs on ${overlay}`);

// The daemon fills the disk whether somebody waits or not, over its own restarts and the machine's.
for (;;) {
  const { hydrated, stream } = await daemon.call("getDeployment", { params: { deployment: name } });
  if (hydrated) break;
  const { state, missingBytes, reason } = stream ?? { state: "created", missingBytes: 0 };
  if (state === "failed") throw new Error(reason?.message);
  console.log(`${state}: ${missingBytes / MIB} MiB missing${reason === undefined ? "" : `, ${reason.message}`}`);
  await sleep(1000);
}
console.log(`${name} stands alone: '${image}' may go`);
