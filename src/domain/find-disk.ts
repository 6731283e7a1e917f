/**
 * A disk by the names that its user knows: the target ("vda"), the alias ("virtio-disk0"), the path of its image. Never
 * by the hypervisor's own name.
 */
import { StreamdiskError } from "../errors/index.ts";
import type { DiskDescription, DomainDescription } from "./description.ts";

/** libvirt's older name of a drive in QEMU is this before the alias. */
const DRIVE_PREFIX = "drive-";

/**
 * @param name target, alias or path
 * @throws {StreamdiskError} `not-found` with what there is; `invalid-argument` for the name of two disks
 */
export function findDisk(domain: DomainDescription, name: string): DiskDescription {
  const found = domain.disks.filter((disk) => namesOf(disk).includes(name));
  const [first, ...others] = found;
  if (first === undefined) throw unknown(domain, name);
  if (others.length === 0) return first;
  const both = found.map((disk) => `the ${howNamed(disk, name)} of '${disk.target}'`).join(" and ");
  const message = `'${domain.name}:${name}' is ambiguous: it is ${both}. Write ${found.map(({ target }) => `'${domain.name}:${target}'`).join(" or ")}`;
  throw new StreamdiskError("invalid-argument", message, { node: domain.name });
}

function namesOf({ target, alias, source }: DiskDescription): (string | undefined)[] {
  return [target, alias, source !== undefined && "path" in source ? source.path : undefined];
}

function howNamed(disk: DiskDescription, name: string): string {
  if (disk.target === name) return "target";
  return disk.alias === name ? "alias" : "image";
}

function unknown(domain: DomainDescription, name: string): StreamdiskError {
  const context = { node: domain.name };
  if (name.startsWith(DRIVE_PREFIX)) {
    const alias = name.slice(DRIVE_PREFIX.length);
    const disk = domain.disks.find((one) => one.alias === alias);
    if (disk !== undefined) {
      const message = `'${name}' is QEMU's own name of a drive: write '${domain.name}:${alias}' or '${domain.name}:${disk.target}'`;
      return new StreamdiskError("invalid-argument", message, context);
    }
  }
  const there = domain.disks.map(({ target, alias }) => (alias === undefined ? target : `${target} (${alias})`));
  const which = there.length === 0 ? "it has no disks" : `it has ${there.join(", ")}`;
  return new StreamdiskError("not-found", `The domain '${domain.name}' has no disk '${name}': ${which}`, context);
}
