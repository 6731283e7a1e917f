/** Decides what a machine leaves to its host, right before it is launched: the program, the accelerator, what lies below each image. */
import { constants } from "node:fs";
import { access, open, realpath } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { type ChainPolicy, openChain } from "../../chain/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { Accelerator, Architecture, MachineDisk, MachineSpec } from "../../jobs/index.ts";
import type { PreparedDisk } from "./disk-nodes.ts";
import { hostArchitecture } from "./machine-spec.ts";
import type { PreparedMachine } from "./qemu-arguments.ts";

export interface MachineHost extends Pick<ChainPolicy, "allowBacking" | "sourceOptions"> {
  /** QEMU's program, absolute. @default `qemu-system-ARCH` on the PATH */
  readonly emulator?: string | undefined;
  /** For machines of the host's own processor that do not say; others are emulated. @default KVM where it may be used, else TCG */
  readonly accelerator?: Accelerator | undefined;
}

/**
 * Images are looked at, not locked: the machine's QEMU locks them.
 *
 * @throws {StreamdiskError} `not-found` for QEMU and for images that are not there; `refused` for a backing reference that is not allowed;
 *   `unsupported` for what QEMU can't be told, and KVM of another processor; `permission` for KVM
 */
export async function prepareMachine(spec: MachineSpec, host: MachineHost = {}): Promise<PreparedMachine> {
  const emulator = await findEmulator(spec, host.emulator);
  const accelerator = await chooseAccelerator(spec, host.accelerator);
  const disks = await Promise.all(spec.disks.map((disk) => prepareDisk(disk, host)));
  return { ...spec, emulator, accelerator, disks };
}

async function findEmulator({ name, arch, emulator: named }: MachineSpec, set: string | undefined): Promise<string> {
  const found = set ?? (await emulatorOnPath(arch));
  if (found === undefined) {
    const message = `There is no qemu-system-${arch} on the PATH to run '${name}': install QEMU, or name it in the setting 'emulator'`;
    throw new StreamdiskError("not-found", message, { node: name });
  }
  if (named === undefined || named === found || (await resolved(named)) === (await resolved(found))) return found;
  const message = `'${name}' asks for the emulator '${named}', and this daemon runs '${found}': take <emulator> out, or set 'emulator' to it`;
  throw new StreamdiskError("refused", message, { node: name });
}

/** The QEMU that a machine of such a processor runs in, unless another is set; undefined where there is none. */
export async function emulatorOnPath(arch: Architecture): Promise<string | undefined> {
  for (const directory of (process.env.PATH ?? "").split(delimiter)) {
    const path = join(directory, `qemu-system-${arch}`);
    if (directory.startsWith("/") && (await may(path, constants.X_OK))) return path;
  }
  return undefined;
}

async function chooseAccelerator(
  { name, arch, accelerator: asked }: MachineSpec,
  set: Accelerator | undefined,
): Promise<Accelerator> {
  const ours = hostArchitecture();
  if (arch !== ours) {
    if (asked !== "kvm") return "tcg";
    const message = `'${name}' asks for KVM, which runs no ${arch} on this host (${ours}): write <domain type='qemu'> for QEMU's emulation`;
    throw new StreamdiskError("unsupported", message, { node: name });
  }
  const usable = await may("/dev/kvm", constants.R_OK | constants.W_OK);
  if (asked === "kvm" && !usable) {
    const message = `'${name}' asks for KVM, and this daemon may not use /dev/kvm: write <domain type='qemu'> for QEMU's emulation`;
    throw new StreamdiskError("permission", message, { node: name });
  }
  return asked ?? set ?? (usable ? "kvm" : "tcg");
}

async function prepareDisk(disk: MachineDisk, { allowBacking, sourceOptions }: MachineHost): Promise<PreparedDisk> {
  const { source, direct = true } = disk;
  if (source.kind === "nbd") return { ...disk, direct, below: [] };
  const policy = { lock: false, ...(allowBacking && { allowBacking }), ...(sourceOptions && { sourceOptions }) };
  await using chain = await openChain({ file: source.path, format: source.format, readOnly: true }, policy);
  const below = chain.layers.slice(1).map(({ path, format }) => ({ reference: path, format }));
  return { ...disk, direct: direct && (await takesDirect(source.path)), below };
}

/** Whether a file can be read past the page cache, which its file system has a say in. */
async function takesDirect(path: string): Promise<boolean> {
  try {
    await using _file = await open(path, constants.O_RDONLY | constants.O_DIRECT);
    return true;
  } catch {
    return false;
  }
}

async function may(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}

async function resolved(path: string): Promise<string> {
  return realpath(path).catch(() => path);
}
