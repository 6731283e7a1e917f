/** A disk of a machine's XML: an image that QEMU owns, or an export on a Unix socket; virtio alone. */
import { FORMAT_NAMES } from "../../formats/index.ts";
import type { MachineDisk } from "../../jobs/index.ts";
import type { XmlElement } from "../xml/xml-element.ts";
import { aliasOf } from "./machine-spec.ts";
import { invalid, oneOf, pathIn, refuseUnknown, unsupported } from "./strict-xml.ts";

const TARGET = /^vd[a-z]{1,3}$/;
const ALIAS = /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/;

export function readMachineDisk(disk: XmlElement): MachineDisk {
  refuseUnknown(disk, {
    attributes: ["type", "device"],
    elements: ["driver", "source", "target", "readonly", "alias", "boot"],
    // What lies below an image is for the image to say; where the device sits is QEMU's to say.
    ignored: ["backingStore", "address"],
  });
  oneOf(disk, "device", ["disk"]);
  const target = readTarget(disk.first("target"));
  const alias = disk.first("alias")?.attribute("name") ?? aliasOf(target);
  if (!ALIAS.test(alias)) throw invalid(`'${alias}' can't be the alias of a disk`);
  const cache = readDriver(disk.first("driver"));
  const bootIndex = readBoot(disk.first("boot"));
  return {
    ...{ target, alias, readOnly: disk.first("readonly") !== undefined, source: readSource(disk, target) },
    ...(cache === "writeback" && { direct: false }),
    ...(bootIndex !== undefined && { bootIndex }),
  };
}

function readTarget(target: XmlElement | undefined): string {
  const dev = target?.attribute("dev");
  if (target === undefined || dev === undefined) throw invalid("a disk has no target");
  refuseUnknown(target, { attributes: ["dev", "bus"] });
  oneOf(target, "bus", ["virtio"]);
  if (TARGET.test(dev)) return dev;
  throw unsupported(`a disk with the target '${dev}': a virtio disk is called vda, vdb and so on`);
}

/** Errors always stop the machine, and unmapped blocks are always given back: a description may say so, and nothing else. */
function readDriver(driver: XmlElement | undefined): "none" | "writeback" | undefined {
  if (driver === undefined) return undefined;
  const attributes = ["name", "type", "cache", "discard", "error_policy", "rerror_policy"];
  refuseUnknown(driver, { attributes });
  oneOf(driver, "name", ["qemu"]);
  oneOf(driver, "discard", ["unmap"]);
  oneOf(driver, "error_policy", ["stop"]);
  oneOf(driver, "rerror_policy", ["stop"]);
  return oneOf(driver, "cache", ["none", "writeback"]);
}

function readBoot(boot: XmlElement | undefined): number | undefined {
  if (boot === undefined) return undefined;
  refuseUnknown(boot, { attributes: ["order"] });
  const order = boot.attribute("order") ?? "";
  if (/^[1-9]\d{0,3}$/.test(order)) return Number(order);
  throw invalid(`'${order}' is no place in the order of boot devices`);
}

function readSource(disk: XmlElement, target: string): MachineDisk["source"] {
  const source = disk.first("source");
  if (source === undefined) throw invalid(`the disk '${target}' has no <source>`);
  const type = oneOf(disk, "type", ["file", "network"]);
  const driver = disk.first("driver");
  if (type === "file") {
    refuseUnknown(source, { attributes: ["file", "index"] });
    const format = driver === undefined ? undefined : oneOf(driver, "type", FORMAT_NAMES);
    if (format === undefined) throw invalid(`the <driver> of '${target}' does not say of which type its image is`);
    return { kind: "image", path: pathIn(source, source.attribute("file") ?? ""), format };
  }
  if (type === undefined) throw invalid(`the disk '${target}' has no type`);
  refuseUnknown(source, { attributes: ["protocol", "name", "index"], elements: ["host"] });
  oneOf(source, "protocol", ["nbd"]);
  if (driver !== undefined) oneOf(driver, "type", ["raw"]);
  const host = source.first("host");
  if (host === undefined) throw invalid(`the <source> of '${target}' has no <host>`);
  refuseUnknown(host, { attributes: ["transport", "socket"] });
  oneOf(host, "transport", ["unix"]);
  const exportName = source.attribute("name") ?? "";
  return { kind: "nbd", socket: pathIn(host, host.attribute("socket") ?? ""), exportName };
}
