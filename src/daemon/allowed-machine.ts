import { dirname } from "node:path";
import { StreamdiskError } from "../errors/index.ts";
import type { MachineDisk, MachineExport, MachineSpec } from "../jobs/index.ts";
import { formatNbdUri } from "../nbd/index.ts";
import { type AllowedPaths, resolvedPath } from "./allowed-paths.ts";

/**
 * A machine with all that it names as it is to be opened, if all of that may be opened: its QEMU runs as the daemon's user.
 *
 * @param sockets directory of the daemon's own disks, which any machine may use
 * @throws {StreamdiskError} `refused`
 */
export async function allowedMachine(spec: MachineSpec, allowed: AllowedPaths, sockets: string): Promise<MachineSpec> {
  const { kernel, initrd, serialLog } = spec;
  const disks = await Promise.all(spec.disks.map((disk) => allowedDisk(disk, allowed, sockets)));
  return {
    ...spec,
    disks,
    ...(kernel !== undefined && { kernel: await allowed.file(kernel) }),
    ...(initrd !== undefined && { initrd: await allowed.file(initrd) }),
    ...(serialLog !== undefined && { serialLog: await allowed.file(serialLog) }),
  };
}

async function allowedDisk(disk: MachineDisk, allowed: AllowedPaths, sockets: string): Promise<MachineDisk> {
  const { source } = disk;
  if (source.kind === "image") return { ...disk, source: { ...source, path: await allowed.file(source.path) } };
  await refuseSocket(source, allowed, sockets);
  return disk;
}

async function refuseSocket({ socket, exportName }: MachineExport, allowed: AllowedPaths, sockets: string) {
  if ((await resolvedPath(dirname(socket))) === (await resolvedPath(sockets))) return;
  if (socket.includes("\0")) throw new StreamdiskError("invalid-argument", "The path of a socket has no NUL");
  await allowed.source(formatNbdUri({ unix: true, socket, exportName, tls: false }));
}
