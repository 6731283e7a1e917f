import { dirname } from "node:path";
import { StreamdiskError } from "../errors/index.ts";
import type { MachineDisk, MachineExport, MachineSpec } from "../jobs/index.ts";
import { formatNbdUri } from "../nbd/index.ts";
import { type AllowedPaths, resolvedPath } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";

const MOST_SHOWN = 80;

/**
 * A machine with all that it names as it is to be opened, if all of that may be opened: its QEMU runs as the daemon's user. What its
 * own arguments of QEMU's name is not looked at: they are let be or refused as a whole.
 *
 * @throws {StreamdiskError} `refused`
 */
export async function allowedMachine(
  spec: MachineSpec,
  allowed: AllowedPaths,
  { socketDirectory, refuseQemuArguments }: Pick<DaemonOptions, "socketDirectory" | "refuseQemuArguments">,
): Promise<MachineSpec> {
  const { name, kernel, initrd, serialLog, extraArguments } = spec;
  if (refuseQemuArguments && extraArguments.length > 0) {
    const message = `'${name}' has arguments of QEMU's of its own (${shown(extraArguments)}), which this daemon refuses: take them out, or start it without --refuse-qemu-arguments`;
    throw new StreamdiskError("refused", message, { node: name });
  }
  const disks = await Promise.all(spec.disks.map((disk) => allowedDisk(disk, allowed, socketDirectory)));
  return {
    ...spec,
    disks,
    ...(kernel !== undefined && { kernel: await allowed.file(kernel) }),
    ...(initrd !== undefined && { initrd: await allowedInitrd(initrd, allowed) }),
    ...(serialLog !== undefined && { serialLog: await allowed.file(serialLog) }),
  };
}

/** QEMU splits it at commas, and opens what is behind each as well, where the kernel is one that takes modules (multiboot). */
async function allowedInitrd(path: string, allowed: AllowedPaths): Promise<string> {
  const real = await allowed.file(path);
  if (!real.includes(",")) return real;
  const message = `QEMU takes the path of the <initrd> '${real}' for a list, since it has a comma: it must have none`;
  throw new StreamdiskError("refused", message, { node: real });
}

/** The first of them. */
function shown(args: readonly string[]): string {
  const text = args.join(" ");
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}...` : text;
}

/** Its sockets are those of the daemon's own disks, which any machine may use. */
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
