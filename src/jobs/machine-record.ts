/** A machine that streamdisk runs itself, as it is remembered: what it is made of, whether it is to run, and how it ended. */
import type { FormatName } from "../formats/index.ts";

export type Architecture = "x86_64" | "aarch64";
/** What runs the guest's code: the processor itself, or QEMU's emulation. */
export type Accelerator = "kvm" | "tcg";

/** What a machine is made of: made from XML or from defaults, and launched again and again. Paths are absolute. */
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
  /** @default all that the host, or QEMU's emulation, has */
  readonly cpu?: MachineCpu;
  /** What is booted without a loader. */
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  /** Where the serial console is written. @default `console.log` in the machine's directory */
  readonly serialLog?: string;
  readonly disks: readonly MachineDisk[];
  /** What QEMU is told after all else. */
  readonly extraArguments: readonly string[];
}

/** What a guest sees of its processors. */
export interface MachineCpu {
  /** One of QEMU's. @default all of the host's, or the emulation's, features */
  readonly model?: string;
  /** As QEMU takes them: "lahf-lm=on". */
  readonly features: readonly string[];
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
  readonly format: FormatName;
}

/** An export of an NBD server on a Unix socket: a disk that streamdisk owns. */
export interface MachineExport {
  readonly kind: "nbd";
  readonly socket: string;
  /** Empty for the default export. */
  readonly exportName: string;
}

export interface MachineEndRecord {
  /** "guest shut down", "killed by signal 9 (SIGKILL)"... */
  readonly reason: string;
  /** Somebody wanted it: its guest, or whoever stopped it. It does not start with its host then. */
  readonly onPurpose: boolean;
  readonly at: number;
}

export interface MachineRecord {
  readonly spec: MachineSpec;
  /** Whether it is started again when its host was. */
  readonly autostart: boolean;
  /**
   * `running` from before QEMU is begun until its end was seen; so a daemon that comes back looks for it. `stopped` after any end, asked
   * for or not.
   */
  readonly state: "running" | "stopped";
  /** The run of the host in which it was started; of none that never was. */
  readonly bootId?: string;
  readonly accelerator?: Accelerator;
  readonly startedAt?: number;
  /** It was told to stop. */
  readonly stopping?: true;
  /** How its last run ended. */
  readonly end?: MachineEndRecord;
}
