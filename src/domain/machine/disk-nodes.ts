/**
 * The block nodes of a machine's disks, each with a name of its own: for a disk `vda` the image is `vda`, its file `vda-file`, what lies
 * below `vda-b1`, `vda-b2`..., the copy-on-read filter above it `vda-cor`. An image is put over a layer by its name: QEMU would mix what is said of a
 * layer within it with what the image says. So a layer outlives the link to it, until it is taken out (`removeNodes`).
 */

import { statSync } from "node:fs";
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

/** The nodes of a disk, from the bottom to the top, on which the guest's device hangs. */
export function diskNodes(disk: PreparedDisk): QemuNode[] {
  const { source } = disk;
  return source.kind === "nbd" ? [exportNode(disk, source)] : imageNodes(disk, source);
}

/** Whether a node is one of those below a disk of a machine, by its name. @param disk which; absent: any */
export function isBelowDisk(name: string, disk?: string): boolean {
  const [, target] = /^(vd[a-z]{1,3})-b\d+$/.exec(name) ?? [];
  return target !== undefined && (disk === undefined || target === disk);
}

function exportNode({ target, readOnly, direct }: PreparedDisk, { socket, exportName }: MachineExport): QemuNode {
  const uri = formatNbdUri({ unix: true, socket, exportName, tls: false });
  return { ...qemuNode({ uri, readOnly }, target), cache: { direct } };
}

function imageNodes({ target, readOnly, direct, below }: PreparedDisk, { path, format }: MachineImage): QemuNode[] {
  const layers = sourceNodes((index) => `${target}-b${index + 1}`, below);
  const image: QemuNode = {
    ...{ driver: format, "node-name": target, "read-only": readOnly, discard: "unmap" },
    file: fileNode(`${target}-file`, path, readOnly, direct),
    ...overLayer(format, layers.at(-1)),
  };
  if (readOnly || below.length === 0) return [...layers, image];
  return [...layers, { driver: "copy-on-read", "node-name": `${target}-cor`, file: image }];
}

/**
 * The nodes of layers, from the bottom to the top.
 *
 * @param nameOf how each is called, from the top down
 * @param layers from the top down
 */
export function sourceNodes(nameOf: (index: number) => string, layers: readonly LayerBelow[]): QemuNode[] {
  const nodes: QemuNode[] = [];
  for (const [index, { reference, format }] of [...layers.entries()].reverse()) {
    const name = nameOf(index);
    nodes.push({
      ...{ driver: format, "node-name": name, "read-only": true, file: sourceNode(`${name}-file`, reference) },
      ...overLayer(format, nodes.at(-1)),
    });
  }
  return nodes;
}

/** Where nothing is below, null keeps QEMU from looking at what the image says. */
function overLayer(format: FormatName, layer: QemuNode | undefined): QemuNode {
  return format === "raw" ? {} : { backing: layer?.["node-name"] ?? null };
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
  const driver = isHostDevice(filename) ? "host_device" : "file";
  const what = { driver, "node-name": name, filename, "read-only": readOnly };
  // Backing files are read by many machines: the host's cache serves all of them.
  return readOnly ? what : { ...what, discard: "unmap", cache: { direct } };
}

/** Whether QEMU has to be told that it is a device: its driver for files takes nothing else. Files lie in /dev too (/dev/shm). */
function isHostDevice(path: string): boolean {
  return path.startsWith("/dev/") && statSync(path, { throwIfNoEntry: false })?.isBlockDevice() === true;
}
