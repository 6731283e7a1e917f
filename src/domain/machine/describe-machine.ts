import type { MachineDisk, MachineSpec } from "../../jobs/index.ts";
import type { DiskDescription, DiskSource, DomainDescription } from "../description.ts";

/**
 * What is known of a machine by what it is made of, and of what QEMU says, if it runs: what lies below its images, and what was plugged
 * in since.
 */
export function describeMachine({ name, uuid, disks }: MachineSpec, running?: DomainDescription): DomainDescription {
  const own = disks.map((disk) => describeDisk(disk, running));
  const taken = own.flatMap(({ target, alias = "" }) => [target, alias]);
  const later = running?.disks.filter(
    ({ target, alias = target }) => !taken.includes(alias) && !taken.includes(target),
  );
  return { name, ...(uuid !== undefined && { uuid }), disks: [...own, ...(later ?? [])] };
}

function describeDisk({ target, alias, readOnly, source }: MachineDisk, running?: DomainDescription): DiskDescription {
  const backing = running?.disks.find((disk) => disk.alias === alias)?.backing ?? [];
  const place: DiskSource =
    source.kind === "image"
      ? { kind: "file", path: source.path }
      : { kind: "network", protocol: "nbd", name: source.exportName, hosts: [{ socket: source.socket }] };
  const format = source.kind === "image" ? source.format : "raw";
  return { target, alias, bus: "virtio", device: "disk", readOnly, format, source: place, backing };
}
