/** The machines that the daemon knows. They are looked at apart from the disks: a QEMU that gives no answer holds up nothing else. */
import { signal } from "@preact/signals";
import type { RouteResult } from "../../src/client/index.ts";
import { daemonClient } from "../session.ts";
import { hasEnded } from "../words.ts";
import { Looking } from "./looking.ts";

export type Machine = RouteResult<"listDomains">["domains"][number];
export type MachineDisk = Machine["disks"][number];
/** How much of one is local. */
export type MachineDiskNow = RouteResult<"domainDisk">;

/** Undefined until they are known. */
export const machines = signal<readonly Machine[] | undefined>(undefined);

export function lookAtMachines(signal: AbortSignal): Looking {
  return new Looking({
    signal,
    look: async (over) => {
      machines.value = (await daemonClient().call("listDomains", {}, { signal: over })).domains;
    },
    isBusy: () => machines.value?.some(({ disks }) => disks.some(isUnderWay)) === true,
  });
}

function isUnderWay({ stream }: MachineDisk): boolean {
  return stream !== undefined && !hasEnded(stream) && stream.state !== "paused";
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
