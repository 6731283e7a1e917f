/**
 * The block nodes of a machine's disks, each with a name of its own: for a disk `vda` the image is `vda`, its file `vda-file`, what lies
 * below `vda-b1`, `vda-b2`..., the copy-on-read filter above it `vda-cor`. Those of a disk are one tree, so that what is taken out of the
 * tree is closed: when the link of an overlay is dropped nobody stays connected to its source.
 */

import { StreamdiskError } from "../../errors/index.ts";
import type { FormatName } from "../../formats/index.ts";
import type { MachineDisk, MachineExport, MachineImage } from "../../jobs/index.ts";
import { formatNbdUri, parseNbdUri, type QemuNode, qemuNode } from "../../nbd/index.ts";

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

/** The tree of a disk; its top is what the guest's device hangs on. */
export function diskNodes(disk: PreparedDisk): QemuNode {
  const { source } = disk;
  return source.kind === "nbd" ? exportNode(disk, source) : imageNodes(disk, source);
}

function exportNode({ target, readOnly, direct }: PreparedDisk, { socket, exportName }: MachineExport): QemuNode {
  const uri = formatNbdUri({ unix: true, socket, exportName, tls: false });
  return { ...qemuNode({ uri, readOnly }, target), cache: { direct } };
}

function imageNodes({ target, readOnly, direct, below }: PreparedDisk, { path, format }: MachineImage): QemuNode {
  const image: QemuNode = {
    ...{ driver: format, "node-name": target, "read-only": readOnly, discard: "unmap" },
    file: fileNode(`${target}-file`, path, readOnly, direct),
    ...(format !== "raw" && { backing: belowNodes(target, below, 1) }),
  };
  if (readOnly || below.length === 0) return image;
  return { driver: "copy-on-read", "node-name": `${target}-cor`, file: image };
}

/** @returns null where nothing is, which keeps QEMU from looking at what the image says */
function belowNodes(target: string, [layer, ...rest]: readonly LayerBelow[], number: number): QemuNode | null {
  if (layer === undefined) return null;
  const name = `${target}-b${number}`;
  if (layer.format === "raw" && !layer.reference.startsWith("/")) return sourceNode(name, layer.reference);
  return layerNode(name, layer, () => belowNodes(target, rest, number + 1));
}

/** The tree of a source alone, whose top is named and has the driver of its format. */
export function sourceTree(name: string, top: LayerBelow, below: readonly LayerBelow[]): QemuNode {
  return layerNode(name, top, () => belowNodes(name, below, 1));
}

function layerNode(name: string, { reference, format }: LayerBelow, backing: () => QemuNode | null): QemuNode {
  return {
    ...{ driver: format, "node-name": name, "read-only": true, file: sourceNode(`${name}-file`, reference) },
    ...(format !== "raw" && { backing: backing() }),
  };
}

function sourceNode(name: string, reference: string): QemuNode {
  if (reference.startsWith("/")) return fileNode(name, reference, true, false);
  const scheme = /^https?(?=:)/i.exec(reference)?.[0].toLowerCase();
  if (scheme !== undefined) return { driver: scheme, "node-name": name, "read-only": true, url: reference };
  if (parseNbdUri(reference).tls) {
    const message = `'${reference}' is spoken to by TLS, which a machine's QEMU is not set up for: offer it by an export of the daemon`;
    throw new StreamdiskError("unsupported", message, { uri: reference });
  }
  // Whose cache is whose, and what is discarded, is for the disk's own image to say.
  const { discard: _discard, cache: _cache, ...node } = qemuNode({ uri: reference, readOnly: true }, name);
  return node;
}

function fileNode(name: string, filename: string, readOnly: boolean, direct: boolean): QemuNode {
  const what = { driver: "file", "node-name": name, filename, "read-only": readOnly };
  // Backing files are read by many machines: the host's cache serves all of them.
  return readOnly ? what : { ...what, discard: "unmap", cache: { direct } };
}
