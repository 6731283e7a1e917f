/** libvirt's description of a domain (https://libvirt.org/formatdomain.html), as far as it is about disks. */
import { StreamdiskError } from "../../errors/index.ts";
import type {
  BackingDescription,
  DiskDescription,
  DiskSource,
  DomainDescription,
  NetworkHost,
} from "../description.ts";
import { parseXml, type XmlElement } from "./xml-element.ts";

/**
 * Reads a domain's XML, of one that runs (`virsh dumpxml`) or not.
 *
 * @throws {StreamdiskError} `invalid-argument` for what is not a domain, or has a disk that can't be named
 */
export function parseDomainXml(text: string): DomainDescription {
  const domain = parseXml(text, "domain");
  const name = domain.first("name")?.text ?? "";
  if (name === "") throw unreadable("it has no name");
  const uuid = domain.first("uuid")?.text;
  const disks = (domain.first("devices")?.all("disk") ?? []).map(readDisk);
  for (const key of ["target", "alias"] as const) {
    const names = disks.flatMap((disk) => disk[key] ?? []);
    const twice = names.find((one, index) => names.indexOf(one) !== index);
    if (twice !== undefined) throw unreadable(`two disks have the ${key} '${twice}'`);
  }
  return { name, ...(uuid !== undefined && { uuid }), disks };
}

function readDisk(disk: XmlElement): DiskDescription {
  const target = disk.first("target");
  const dev = target?.attribute("dev");
  if (dev === undefined || dev === "") throw unreadable("a disk has no target");
  const bus = target?.attribute("bus");
  const alias = disk.first("alias")?.attribute("name");
  const format = disk.first("driver")?.attribute("type");
  const source = readSource(disk.attribute("type"), disk.first("source"));
  return {
    target: dev,
    ...(bus !== undefined && { bus }),
    ...(alias !== undefined && { alias }),
    device: disk.attribute("device") ?? "disk",
    readOnly: disk.first("readonly") !== undefined,
    ...(format !== undefined && { format }),
    ...(source !== undefined && { source }),
    backing: readBacking(disk),
  };
}

/** An element without a type ends the chain. */
function readBacking(disk: XmlElement): BackingDescription[] {
  const chain: BackingDescription[] = [];
  for (let store = disk.first("backingStore"); store !== undefined; store = store.first("backingStore")) {
    const source = readSource(store.attribute("type"), store.first("source"));
    if (source === undefined) break;
    const format = store.first("format")?.attribute("type");
    chain.push({ source, ...(format !== undefined && { format }) });
  }
  return chain;
}

function readSource(type: string | undefined, source: XmlElement | undefined): DiskSource | undefined {
  if (type === undefined || source === undefined) return undefined;
  const path = source.attribute(type === "block" ? "dev" : "file");
  if (type === "file" || type === "block") return path === undefined ? undefined : { kind: type, path };
  if (type !== "network") return { kind: "other", type };
  return {
    kind: "network",
    protocol: source.attribute("protocol") ?? "",
    name: source.attribute("name") ?? "",
    hosts: source.all("host").map(readHost),
  };
}

function readHost(host: XmlElement): NetworkHost {
  const socket = host.attribute("socket");
  if (socket !== undefined) return { socket };
  const name = host.attribute("name");
  const port = Number(host.attribute("port"));
  return { ...(name !== undefined && { name }), ...(Number.isInteger(port) && port > 0 && { port }) };
}

function unreadable(why: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", `The XML of a domain can't be used: ${why}`);
}
