/** The machines that the daemon knows. They are looked at apart from the disks: a QEMU that gives no answer holds up nothing else. */
import { signal } from "@preact/signals";
import type { RouteResult } from "../../src/client/index.ts";
import type { Machine, MachineDisk } from "../machine-words.ts";
import { daemonClient } from "../session.ts";
import { isUnderWay } from "../words.ts";
import { Looking } from "./looking.ts";

export type Deployment = RouteResult<"listDeployments">["deployments"][number];
/** How much of one is local. */
export type MachineDiskNow = RouteResult<"domainDisk">;

/** Undefined until they are known. */
export const machines = signal<readonly Machine[] | undefined>(undefined);

/** Those that were made from an image, with their disks. */
export const deployments = signal<readonly Deployment[]>([]);

export async function lookAtMachinesNow(signal?: AbortSignal): Promise<void> {
  const client = daemonClient();
  const options = signal === undefined ? {} : { signal };
  // Each is shown as soon as it is there: a machine whose QEMU hangs is waited for.
  await Promise.all([
    client.call("listDomains", {}, options).then((found) => {
      machines.value = found.domains;
    }),
    client.call("listDeployments", {}, options).then((found) => {
      deployments.value = found.deployments;
    }),
  ]);
}

export function lookAtMachines(signal: AbortSignal): Looking {
  return new Looking({
    signal,
    look: lookAtMachinesNow,
    isBusy: () => machines.value?.some(({ disks }) => disks.some(({ stream }) => isUnderWay(stream))) === true,
  });
}

/** A disk of a machine has its name and a colon before its own. */
export function isOfMachine(disk: string): boolean {
  return disk.includes(":");
}

/** What is known of a disk, and its machine. @param name `MACHINE:DEVICE` */
export function machineDisk(name: string): { readonly machine: Machine; readonly disk: MachineDisk } | undefined {
  for (const machine of machines.value ?? []) {
    const disk = machine.disks.find((one) => one.name === name);
    if (disk !== undefined) return { machine, disk };
  }
  return undefined;
}
