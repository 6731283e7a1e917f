/**
 * A machine from libvirt's XML (https://libvirt.org/formatdomain.html), strictly: what can't be done is refused by its name, and never
 * left out. What changes nothing for the guest, and what libvirt writes into each description by itself, is passed over; all of that is
 * listed here by name.
 */
import type { Accelerator, Architecture, MachineSpec } from "../../jobs/index.ts";
import { parseXml, type XmlElement } from "../xml/xml-element.ts";
import { hostArchitecture } from "./machine-spec.ts";
import { readCpu } from "./parse-cpu.ts";
import { readMachineDisk } from "./parse-machine-disk.ts";
import { invalid, oneOf, pathIn, refuseUnknown, unsupported } from "./strict-xml.ts";

const ARCHITECTURES = ["x86_64", "aarch64"] as const satisfies readonly Architecture[];
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const MACHINE_TYPE = /^[A-Za-z0-9._-]{1,64}$/;
const MOST_MEMORY = 2 ** 44;
const MOST_CPUS = 1024;
const KIB = 1024;

/** Bytes by the names of units in libvirt's "Memory Allocation". */
const UNITS: Readonly<Record<string, number>> = {
  ...{ b: 1, bytes: 1, KB: 1e3, k: 2 ** 10, KiB: 2 ** 10, MB: 1e6, M: 2 ** 20, MiB: 2 ** 20 },
  ...{ GB: 1e9, G: 2 ** 30, GiB: 2 ** 30, TB: 1e12, T: 2 ** 40, TiB: 2 ** 40 },
};
/** What is for people or for libvirt alone. */
const FOR_OTHERS = ["title", "description", "metadata", "resource", "seclabel", "pm"];
/** Devices that libvirt adds to every machine: those with something to do have their own here. */
const ADDED_DEVICES = ["input", "memballoon", "audio", "watchdog"];
/** Controllers that QEMU's machine types have, or that have nothing to control here. */
const CONTROLLERS = ["pci", "usb", "ide", "sata"] as const;

/**
 * @throws {StreamdiskError} `unsupported` with the name of what can't be done, and what can; `invalid-argument` for what makes no sense
 */
export function parseMachineXml(text: string): MachineSpec {
  const domain = parseXml(text, "domain");
  refuseUnknown(domain, {
    attributes: ["type", "id", "xmlns:qemu"],
    elements: [
      ...["name", "uuid", "memory", "currentMemory", "vcpu", "os", "features", "cpu", "clock"],
      ...["on_poweroff", "on_reboot", "on_crash", "devices", "qemu:commandline"],
    ],
    ignored: FOR_OTHERS,
  });
  const name = domain.first("name")?.text ?? "";
  if (!NAME.test(name)) throw invalid(`'${name}' is not a name: letters, digits, '.', '_' and '-', 63 at most`);
  const uuid = domain.first("uuid")?.text;
  if (uuid !== undefined && !UUID.test(uuid)) throw invalid(`'${uuid}' is not a UUID`);
  checkLife(domain);
  checkFeatures(domain.first("features"));
  const cpu = readCpu(domain.first("cpu"));
  const accelerator = readAccelerator(domain);
  return {
    name,
    ...(uuid !== undefined && { uuid }),
    ...(accelerator !== undefined && { accelerator }),
    memory: readMemory(domain),
    cpus: readCpus(domain),
    ...(cpu !== undefined && { cpu }),
    ...readOs(domain.first("os")),
    ...readDevices(domain.first("devices")),
    extraArguments: readExtra(domain.first("qemu:commandline")),
  };
}

function readAccelerator(domain: XmlElement): Accelerator | undefined {
  const type = oneOf(domain, "type", ["kvm", "qemu"]);
  return type === "qemu" ? "tcg" : type;
}

function readMemory(domain: XmlElement): number {
  const memory = domain.first("memory");
  if (memory === undefined) throw invalid("it has no <memory>");
  const bytes = amount(memory);
  const current = domain.first("currentMemory");
  if (current !== undefined && amount(current) !== bytes) {
    throw unsupported("a <currentMemory> that is not its <memory>: there is no balloon");
  }
  return bytes;
}

function amount(element: XmlElement): number {
  refuseUnknown(element, { attributes: ["unit"] });
  const unit = element.attribute("unit") ?? "KiB";
  const factor = Object.hasOwn(UNITS, unit) ? UNITS[unit] : undefined;
  if (factor === undefined) throw invalid(`'${unit}' is no unit of <${element.name}>`);
  // As libvirt does: up to whole KiB.
  const bytes = Math.ceil((number(element) * factor) / KIB) * KIB;
  if (bytes > 0 && bytes <= MOST_MEMORY) return bytes;
  throw invalid(`<${element.name}> is ${bytes} bytes: at least 1 KiB, at most 16 TiB`);
}

function readCpus(domain: XmlElement): number {
  const vcpu = domain.first("vcpu");
  if (vcpu === undefined) return 1;
  refuseUnknown(vcpu, { attributes: ["placement"] });
  oneOf(vcpu, "placement", ["static"]);
  const cpus = number(vcpu);
  if (cpus >= 1 && cpus <= MOST_CPUS) return cpus;
  throw invalid(`<vcpu> is ${cpus}: at least 1, at most ${MOST_CPUS}`);
}

function number(element: XmlElement): number {
  if (!/^\d{1,15}$/.test(element.text)) throw invalid(`<${element.name}> is '${element.text}', which is not a number`);
  return Number(element.text);
}

function readOs(os: XmlElement | undefined): Pick<MachineSpec, "arch" | "machine" | "kernel" | "initrd" | "cmdline"> {
  if (os === undefined) throw invalid("it has no <os>");
  refuseUnknown(os, { elements: ["type", "kernel", "initrd", "cmdline", "boot"] });
  const type = os.first("type");
  if (type !== undefined) refuseUnknown(type, { attributes: ["arch", "machine"] });
  if (type !== undefined && type.text !== "hvm") throw unsupported(`the <type> '${type.text}': it can be hvm`);
  const boot = os.first("boot");
  if (boot !== undefined) {
    refuseUnknown(boot, { attributes: ["dev"] });
    oneOf(boot, "dev", ["hd"]);
  }
  const arch: Architecture = (type && oneOf(type, "arch", ARCHITECTURES)) ?? hostArchitecture();
  const machine = type?.attribute("machine");
  if (machine !== undefined && !MACHINE_TYPE.test(machine)) throw invalid(`'${machine}' is no type of machine`);
  const cmdline = textOf(os, "cmdline");
  const kernel = os.first("kernel");
  const initrd = os.first("initrd");
  if (kernel === undefined && (initrd ?? cmdline) !== undefined)
    throw invalid("<initrd> and <cmdline> need a <kernel>");
  return {
    arch,
    ...(machine !== undefined && { machine }),
    ...(kernel !== undefined && { kernel: pathIn(kernel, kernel.text) }),
    ...(initrd !== undefined && { initrd: pathIn(initrd, initrd.text) }),
    ...(cmdline !== undefined && { cmdline }),
  };
}

/** What happens at the end of a machine is always the same, and is what libvirt does unless it is told otherwise. */
function checkLife(domain: XmlElement): void {
  const only = { on_poweroff: ["destroy"], on_reboot: ["restart"], on_crash: ["destroy"] };
  for (const [name, values] of Object.entries(only)) {
    const text = textOf(domain, name);
    if (text !== undefined && !values.includes(text)) {
      throw unsupported(`<${name}> '${text}': it can be ${values.join(", ")}`);
    }
  }
  const clock = domain.first("clock");
  if (clock === undefined) return;
  refuseUnknown(clock, { attributes: ["offset"], ignored: ["timer"] });
  oneOf(clock, "offset", ["utc"]);
}

/** QEMU's machines have these, and no others are offered. */
function checkFeatures(features: XmlElement | undefined): void {
  if (features !== undefined) refuseUnknown(features, { elements: ["acpi", "apic", "pae"], ignored: ["vmport"] });
}

function readDevices(devices: XmlElement | undefined): Pick<MachineSpec, "emulator" | "serialLog" | "disks"> {
  if (devices === undefined) return { disks: [] };
  refuseUnknown(devices, {
    elements: ["emulator", "serial", "console"],
    many: ["disk", "controller"],
    ignored: ADDED_DEVICES,
  });
  for (const controller of devices.all("controller")) oneOf(controller, "type", CONTROLLERS);
  const emulator = devices.first("emulator");
  const serialLog = readSerial(devices);
  const disks = devices.all("disk").map(readMachineDisk);
  for (const key of ["target", "alias"] as const) {
    const names = disks.map((disk) => disk[key]);
    const twice = names.find((one, index) => names.indexOf(one) !== index);
    if (twice !== undefined) throw invalid(`two disks have the ${key} '${twice}'`);
  }
  return {
    ...(emulator !== undefined && { emulator: pathIn(emulator, emulator.text) }),
    ...(serialLog !== undefined && { serialLog }),
    disks,
  };
}

/** There is one serial port, which is the console. Where libvirt would make a pty there is a socket, and a log. */
function readSerial(devices: XmlElement): string | undefined {
  const console = devices.first("console");
  if (console !== undefined) checkPort(console, ["type", "tty"], "serial");
  const serial = devices.first("serial");
  if (serial === undefined) return undefined;
  checkPort(serial, ["type"], "isa-serial");
  const path = serial.first("source")?.attribute(serial.attribute("type") === "file" ? "path" : "");
  if (serial.attribute("type") !== "file") return undefined;
  if (path === undefined) throw invalid("a <serial> of the type 'file' needs the path of its <source>");
  return pathIn(serial, path);
}

function checkPort(port: XmlElement, attributes: readonly string[], targetType: string): void {
  refuseUnknown(port, { attributes, elements: ["source", "target"], ignored: ["alias", "address"] });
  oneOf(port, "type", ["file", "pty"]);
  const source = port.first("source");
  if (source !== undefined) refuseUnknown(source, { attributes: ["path"] });
  const target = port.first("target");
  if (target === undefined) return;
  refuseUnknown(target, { attributes: ["type", "port"], ignored: ["model"] });
  oneOf(target, "type", [targetType]);
  oneOf(target, "port", ["0"]);
}

function readExtra(commandLine: XmlElement | undefined): string[] {
  if (commandLine === undefined) return [];
  refuseUnknown(commandLine, { many: ["qemu:arg"] });
  return commandLine.all("qemu:arg").map((arg) => {
    refuseUnknown(arg, { attributes: ["value"] });
    return arg.attribute("value") ?? "";
  });
}

function textOf(parent: XmlElement, name: string): string | undefined {
  return parent.first(name)?.text;
}
