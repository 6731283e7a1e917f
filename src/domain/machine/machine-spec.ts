/** A machine that streamdisk is to run, as plain data: it is made from XML or from defaults, stored, and launched again and again. */

export const ARCHITECTURES = ["x86_64", "aarch64"] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

export const ACCELERATORS = ["kvm", "tcg"] as const;
/** What runs the guest's code: the processor itself, or QEMU's emulation. */
export type Accelerator = (typeof ACCELERATORS)[number];

export const MACHINE_FORMATS = ["qcow2", "qed", "raw"] as const;
export type MachineFormat = (typeof MACHINE_FORMATS)[number];

export interface MachineSpec {
  readonly name: string;
  readonly uuid?: string;
  readonly arch: Architecture;
  /** QEMU's type of machine. @default "pc" on x86_64, "virt" on aarch64 */
  readonly machine?: string;
  /** @default KVM where it may be used, else TCG */
  readonly accelerator?: Accelerator;
  /** The program that a description names: it must be the one that is used. */
  readonly emulator?: string;
  /** Bytes; whole KiB. */
  readonly memory: number;
  readonly cpus: number;
  /** Paths of what is booted without a loader; all paths here are absolute. */
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  /** Where the serial console is written. @default `console.log` in the machine's directory */
  readonly serialLog?: string;
  readonly disks: readonly MachineDisk[];
  /** What QEMU is told after all else. */
  readonly extraArguments: readonly string[];
}

/** A virtio disk. */
export interface MachineDisk {
  /** "vda"; QEMU's node of the image is called so too. */
  readonly target: string;
  /** Id of the device: "virtio-disk0". */
  readonly alias: string;
  readonly readOnly: boolean;
  /** Whether reads and writes pass the host's page cache by, where the file system can do that. @default true */
  readonly direct?: boolean;
  readonly bootIndex?: number;
  readonly source: MachineImage | MachineExport;
}

/** An image that QEMU opens and owns. What lies below it is what the image says. */
export interface MachineImage {
  readonly kind: "image";
  readonly path: string;
  readonly format: MachineFormat;
}

/** An export of an NBD server on a Unix socket: a disk that streamdisk owns. */
export interface MachineExport {
  readonly kind: "nbd";
  readonly socket: string;
  /** Empty for the default export. */
  readonly exportName: string;
}

const DEFAULT_MEMORY = 2 ** 30;

/** A machine of which little is said: 1 GiB, one CPU, no network, a serial console, and the disks that are given. */
export function defaultMachine(
  spec: Pick<MachineSpec, "name"> & Partial<MachineSpec>,
  arch: Architecture = hostArchitecture(),
): MachineSpec {
  return { arch, memory: DEFAULT_MEMORY, cpus: 1, disks: [], extraArguments: [], ...spec };
}

/** The alias that libvirt gives to a virtio disk: by the letters of its target, "vdb" is number 1. */
export function aliasOf(target: string): string {
  const letters = target.replace(/^vd/, "");
  const number = Array.from(letters).reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 96, 0);
  return `virtio-disk${number - 1}`;
}

export function hostArchitecture(): Architecture {
  return process.arch === "arm64" ? "aarch64" : "x86_64";
}
