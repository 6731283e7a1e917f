/**
 * The block nodes of a machine's disks, each with a name of its own: for a disk `vda` the image is `vda`, its file `vda-file`, what lies
 * below `vda-b1`, `vda-b2`..., the copy-on-read filter above it `vda-cor`. Those of a disk are one tree, so that what is taken out of the
 * tree is closed: when the link of an overlay is dropped nobody stays connected to its source.
 */

import { StreamdiskError } from "../../errors/index.ts";
import type { FormatName } from "../../formats/index.ts";
import type { MachineDisk, MachineExport, MachineImage } from "../../jobs/index.ts";
import { parseNbdUri } from "../../nbd/index.ts";

/** A disk of which is known what its image says. */
export interface PreparedDisk extends MachineDisk {
  readonly direct: boolean;
  /** What lies below the image, from the top down. */
  readonly below: readonly LayerBelow[];
}

export interface LayerBelow {
  /** Absolute path or URI. */
  readonly reference: string;
  readonly format: FormatName;
}

/** A node as for `-blockdev`. */
export interface DiskNode {
  readonly [option: string]: string | number | boolean | null | DiskNode;
}

/** For how long requests wait when an export is away: a start of its daemon on a machine that has much to do, and QEMU's next try. */
const RECONNECT_S = 60;

/** The tree of a disk; its top is what the guest's device hangs on. */
export function diskNodes(disk: PreparedDisk): DiskNode {
  const { source } = disk;
  return source.kind === "nbd" ? exportNode(disk, source) : imageNodes(disk, source);
}

function exportNode({ target, readOnly, direct }: PreparedDisk, { socket, exportName }: MachineExport): DiskNode {
  return {
    ...{ driver: "nbd", "node-name": target, server: { type: "unix", path: socket }, export: exportName },
    ...{ "reconnect-delay": RECONNECT_S, "read-only": readOnly, discard: "unmap", cache: { direct } },
  };
}

function imageNodes({ target, readOnly, direct, below }: PreparedDisk, { path, format }: MachineImage): DiskNode {
  const image: DiskNode = {
    ...{ driver: format, "node-name": target, "read-only": readOnly, discard: "unmap" },
    file: fileNode(`${target}-file`, path, readOnly, direct),
    ...(format !== "raw" && { backing: belowNodes(target, below, 1) }),
  };
  if (readOnly || below.length === 0) return image;
  return { driver: "copy-on-read", "node-name": `${target}-cor`, file: image };
}

/** @returns null where nothing is, which keeps QEMU from looking at what the image says */
function belowNodes(target: string, [layer, ...rest]: readonly LayerBelow[], number: number): DiskNode | null {
  if (layer === undefined) return null;
  const name = `${target}-b${number}`;
  if (layer.format === "raw" && !layer.reference.startsWith("/")) return sourceNode(name, layer.reference);
  return layerNode(name, layer, () => belowNodes(target, rest, number + 1));
}

/** The tree of a source alone, whose top is named and has the driver of its format. */
export function sourceTree(name: string, top: LayerBelow, below: readonly LayerBelow[]): DiskNode {
  return layerNode(name, top, () => belowNodes(name, below, 1));
}

function layerNode(name: string, { reference, format }: LayerBelow, backing: () => DiskNode | null): DiskNode {
  return {
    ...{ driver: format, "node-name": name, "read-only": true, file: sourceNode(`${name}-file`, reference) },
    ...(format !== "raw" && { backing: backing() }),
  };
}

function sourceNode(name: string, reference: string): DiskNode {
  if (reference.startsWith("/")) return fileNode(name, reference, true, false);
  const scheme = /^https?(?=:)/i.exec(reference)?.[0].toLowerCase();
  if (scheme !== undefined) return { driver: scheme, "node-name": name, "read-only": true, url: reference };
  const uri = parseNbdUri(reference);
  if (uri.tls) {
    const message = `'${reference}' is spoken to by TLS, which a machine's QEMU is not set up for: offer it by an export of the daemon`;
    throw new StreamdiskError("unsupported", message, { uri: reference });
  }
  const server: DiskNode = uri.unix
    ? { type: "unix", path: uri.socket }
    : { type: "inet", host: uri.host, port: String(uri.port) };
  return {
    ...{ driver: "nbd", "node-name": name, "read-only": true, server, export: uri.exportName },
    "reconnect-delay": RECONNECT_S,
  };
}

function fileNode(name: string, filename: string, readOnly: boolean, direct: boolean): DiskNode {
  const what = { driver: "file", "node-name": name, filename, "read-only": readOnly };
  // Backing files are read by many machines: the host's cache serves all of them.
  return readOnly ? what : { ...what, discard: "unmap", cache: { direct } };
}
