/**
 * The arguments by which QEMU runs a machine. Nothing is there that is not asked for (`-nodefaults`): no display, no network, no USB.
 *
 * Devices stop the machine on errors rather than hand them to the guest (`rerror=stop,werror=stop`), which is what the policy "pause" for a
 * source that dies needs; node names are those of `diskNodes`.
 */
import type { Accelerator, Architecture, MachineSpec } from "../../jobs/index.ts";
import { diskNodes, type PreparedDisk } from "./disk-nodes.ts";
import type { MachinePaths } from "./machine-paths.ts";

/** A machine with all that was left to the host decided. */
export interface PreparedMachine extends MachineSpec {
  readonly accelerator: Accelerator;
  readonly emulator: string;
  readonly disks: readonly PreparedDisk[];
}

const MACHINE_TYPES: Readonly<Record<Architecture, string>> = { x86_64: "pc", aarch64: "virt" };
const KIB = 1024;

export function qemuArguments(machine: PreparedMachine, paths: MachinePaths): string[] {
  const { name, uuid, arch, accelerator, memory, cpus, kernel, initrd, cmdline, disks, extraArguments } = machine;
  const type = machine.machine ?? MACHINE_TYPES[arch];
  return [
    ...["-name", `guest=${name}`, ...(uuid === undefined ? [] : ["-uuid", uuid])],
    ...["-machine", type, "-accel", accelerator, "-cpu", cpuOption(machine)],
    ...["-m", `size=${memory / KIB}k`, "-smp", String(cpus)],
    ...["-no-user-config", "-nodefaults", "-display", "none", "-pidfile", paths.pidFile],
    ...["-chardev", monitorOption(paths), "-mon", "chardev=monitor,mode=control"],
    ...serial(machine.serialLog ?? paths.consoleLog, paths.console),
    ...(kernel === undefined ? [] : ["-kernel", kernel]),
    ...(initrd === undefined ? [] : ["-initrd", initrd]),
    ...(cmdline === undefined ? [] : ["-append", cmdline]),
    ...disks.flatMap(diskArguments),
    ...extraArguments,
  ];
}

function cpuOption({ accelerator, cpu }: PreparedMachine): string {
  const all = accelerator === "kvm" ? "host" : "max";
  return [cpu?.model ?? all, ...(cpu?.features ?? [])].join(",");
}

/** What no other process has among its arguments. */
export function monitorOption({ qmp }: MachinePaths): string {
  return `socket,id=monitor,path=${escaped(qmp)},server=on,wait=off`;
}

function serial(log: string, socket: string): string[] {
  const chardev = `socket,id=console,path=${escaped(socket)},server=on,wait=off,logfile=${escaped(log)},logappend=on`;
  return ["-chardev", chardev, "-serial", "chardev:console"];
}

function diskArguments(disk: PreparedDisk): string[] {
  const { alias, bootIndex } = disk;
  const nodes = diskNodes(disk);
  const order = bootIndex === undefined ? "" : `,bootindex=${bootIndex}`;
  const device = `virtio-blk-pci,id=${alias},drive=${nodes.at(-1)!["node-name"]},rerror=stop,werror=stop${order}`;
  return [...nodes.flatMap((node) => ["-blockdev", JSON.stringify(node)]), "-device", device];
}

/** A comma in a value of QEMU's options is written twice. */
function escaped(value: string): string {
  return value.replaceAll(",", ",,");
}
