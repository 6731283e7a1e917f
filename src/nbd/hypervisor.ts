/**
 * An export as hypervisors are given it: QEMU's block node and the device on it, and libvirt's `<disk>`. The one place that says how a
 * machine uses a disk of ours:
 *
 * - it waits for a server that is restarted, and its guest sees nothing of that (`reconnect-delay`);
 * - the host keeps no second copy of what is read (`cache.direct`), and what the guest discards is discarded (`discard`);
 * - an error stops the machine rather than reach the guest, as the policy "pause" needs (`rerror`, `werror`).
 */
import { parseNbdUri } from "./uri.ts";

/** Seconds that requests wait for a server that is away: a start of the daemon on a busy machine, and QEMU's next try. */
export const RECONNECT_DELAY = 60;
/** What the client's credentials are to be called in QEMU, for an export with TLS. */
const TLS_CREDENTIALS = "tls0";

/** A node as for QEMU's `-blockdev` and `blockdev-add`. */
export interface QemuNode {
  readonly [option: string]: string | number | boolean | null | QemuNode;
}

export interface GuestDisk {
  /** The export. */
  readonly uri: string;
  /** @default false */
  readonly readOnly?: boolean | undefined;
}

/** The block node of an export. */
export function qemuNode({ uri, readOnly = false }: GuestDisk, nodeName: string): QemuNode {
  const address = parseNbdUri(uri);
  const server: QemuNode = address.unix
    ? { type: "unix", path: address.socket }
    : { type: "inet", host: address.host, port: String(address.port) };
  return {
    ...{ driver: "nbd", "node-name": nodeName, server },
    ...(address.exportName !== "" && { export: address.exportName }),
    ...(address.tls && { "tls-creds": TLS_CREDENTIALS }),
    ...(readOnly && { "read-only": true }),
    ...{ "reconnect-delay": RECONNECT_DELAY, discard: "unmap", cache: { direct: true } },
  };
}

/** A node in the words of `-blockdev`, without quotes: a comma in a value stands there twice. */
export function qemuBlockdev(node: QemuNode, prefix = ""): string {
  const options = Object.entries(node).map(([name, value]) => {
    if (typeof value === "object" && value !== null) return qemuBlockdev(value, `${prefix}${name}.`);
    const text = typeof value === "boolean" ? (value ? "on" : "off") : String(value);
    return `${prefix}${name}=${text.replaceAll(",", ",,")}`;
  });
  return options.join(",");
}

/** The options of a virtio disk upon a node, as for `-device` and `device_add`. */
export function qemuDevice(nodeName: string, id?: string) {
  return {
    ...{ driver: "virtio-blk-pci", drive: nodeName, ...(id !== undefined && { id }) },
    ...{ rerror: "stop", werror: "stop" },
  };
}

/** A node and the device on it, as arguments of QEMU. */
export function qemuDisk(disk: GuestDisk, nodeName: string): string[] {
  const { driver, ...options } = qemuDevice(nodeName);
  const device = [driver, ...Object.entries(options).map(([name, value]) => `${name}=${value}`)].join(",");
  return ["-blockdev", qemuBlockdev(qemuNode(disk, nodeName)), "-device", device];
}

/** The element for a domain's XML (https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms), line by line. */
export function libvirtDisk({ uri, readOnly = false }: GuestDisk, target = "vda"): string[] {
  const address = parseNbdUri(uri);
  const host = address.unix
    ? `<host transport='unix' socket='${escaped(address.socket)}'/>`
    : `<host name='${escaped(address.host)}' port='${address.port}'/>`;
  return [
    "<disk type='network' device='disk'>",
    "  <driver name='qemu' type='raw' cache='none' error_policy='stop' rerror_policy='stop' discard='unmap'/>",
    `  <source protocol='nbd' name='${escaped(address.exportName)}'${address.tls ? " tls='yes'" : ""}>`,
    `    ${host}`,
    `    <reconnect delay='${RECONNECT_DELAY}'/>`,
    "  </source>",
    `  <target dev='${escaped(target)}' bus='virtio'/>`,
    ...(readOnly ? ["  <readonly/>"] : []),
    "</disk>",
  ];
}

function escaped(text: string): string {
  return text.replace(/[<>&'"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
