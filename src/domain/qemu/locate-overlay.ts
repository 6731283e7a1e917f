/**
 * Which node of a running QEMU is the overlay of a domain's disk.
 *
 * The guest's device is found by the alias (the device's id), or else by the path of its image. From the node at its top the way goes
 * down through filters (copy-on-read, throttling) to the image. QEMU 7.2 tells the edges of the graph only by a
 * command that is meant for debugging; without it nothing could be said of filters, and of nodes without a name of their own.
 */
import { StreamdiskError } from "../../errors/index.ts";
import type { DiskDescription } from "../description.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpBlockDevice, QmpGraph, QmpNode } from "../qmp/commands.ts";
import { JOB_PREFIX, whileNodesRest } from "./nodes-at-rest.ts";

/** Drivers that pass everything on to what is below them. */
const FILTERS: ReadonlySet<string> = new Set(["copy-on-read", "throttle", "preallocate"]);
/** Formats whose overlays can be filled. */
const OVERLAYS: ReadonlySet<string> = new Set(["qcow2", "qed"]);
/** Before the id, in the names that libvirt once gave to drives. */
const DRIVE_PREFIX = "drive-";

export interface Overlay {
  /** What the disk is called in messages: "vm:vda". */
  readonly name: string;
  /** Of the guest's device, as QEMU calls it. */
  readonly qdev: string | undefined;
  /** Names of QEMU's nodes. */
  readonly node: string;
  /** The node below it; undefined when it stands alone. */
  readonly backingNode: string | undefined;
  /** What the image names as its backing file. */
  readonly backingFile: string | undefined;
  readonly format: string;
  readonly file: string;
  /** Virtual size in bytes. */
  readonly length: number;
  readonly clusterSize: number;
  readonly detectZeroes: string;
}

/** What QEMU says of its block layer, at one moment. */
export interface BlockLayer {
  readonly devices: readonly QmpBlockDevice[];
  readonly nodes: readonly QmpNode[];
  readonly graph: QmpGraph;
}

export async function queryBlockLayer(qmp: QmpClient, signal?: AbortSignal): Promise<BlockLayer> {
  const ask = () =>
    Promise.all([
      qmp.execute("query-block", {}, { signal }),
      qmp.execute("query-named-block-nodes", { flat: true }, { signal }),
      qmp.execute("x-debug-query-block-graph", {}, { signal }),
    ]);
  const [devices, nodes, graph] = await whileNodesRest(qmp, ask, signal);
  return { devices, nodes, graph };
}

/** The id of a guest device, of what `query-block` calls it; undefined for one without. */
export function deviceId({ qdev, device }: QmpBlockDevice): string | undefined {
  // A virtio disk's drive hangs on a part of the device that has no id of its own.
  const id = /^\/machine\/peripheral\/([^/]+)/.exec(qdev ?? "")?.[1];
  if (id !== undefined) return id;
  if (qdev !== undefined && !qdev.startsWith("/")) return qdev;
  return device === "" ? undefined : device.replace(DRIVE_PREFIX, "");
}

/**
 * What an overlay is located for. A stream of streamdisk's own, of this process or another, is in nobody's way who only looks: jobs of others may be
 * anything, and the chain be about to change.
 */
export type Purpose = "look" | "change";

/**
 * @throws {StreamdiskError} `not-found` when QEMU has no such device; `unsupported` for what is no overlay; `in-use` for a disk that
 *   a block job works on; `refused` for an image with internal snapshots
 */
export function locateOverlay(
  layer: BlockLayer,
  domain: string,
  disk: DiskDescription,
  purpose: Purpose = "change",
): Overlay {
  const name = `${domain}:${disk.target}`;
  const device = findDevice(layer, name, disk);
  const inserted = device.inserted;
  if (inserted === undefined) throw new StreamdiskError("not-found", `The drive '${name}' is empty`, { node: name });
  const node = belowFilters(layer, inserted, name);
  if (!OVERLAYS.has(node.driver) || node.clusterSize === undefined) {
    const message = `'${name}' is an image of the format ${node.driver}, which is no overlay: only qcow2 and QED can be filled`;
    throw new StreamdiskError("unsupported", message, { node: name });
  }
  if (node.readOnly) throw new StreamdiskError("permission", `QEMU has '${name}' open read-only`, { node: name });
  if (node.snapshots > 0) {
    const message = `'${name}' has ${node.snapshots} internal snapshots, which read through its link: it must keep it`;
    throw new StreamdiskError("refused", message, { node: name });
  }
  refuseJobs(layer, node, { name, purpose });
  return {
    ...{
      name,
      qdev: device.qdev,
      node: node.nodeName,
      backingNode: childOf(layer, node, ["backing"])?.nodeName,
      format: node.driver,
    },
    ...{ backingFile: node.backingFile, file: fileOf(layer, node), length: node.length, clusterSize: node.clusterSize },
    detectZeroes: node.detectZeroes,
  };
}

/** The images of a drive from the top down, as QEMU has them open, without filters. */
export function chainOf(layer: BlockLayer, top: QmpNode, name: string): QmpNode[] {
  const chain: QmpNode[] = [];
  let node: QmpNode | undefined = top;
  while (node !== undefined && chain.length < layer.nodes.length) {
    const image: QmpNode = belowFilters(layer, node, name);
    chain.push(image);
    node = childOf(layer, image, ["backing"]);
  }
  return chain;
}

/** The file of an image, also when QEMU would rather describe all that lies below it too. */
export function fileOf(layer: BlockLayer, node: QmpNode): string {
  const below = node.file.startsWith("json:") ? childOf(layer, node, ["file"]) : undefined;
  return below === undefined ? node.file : fileOf(layer, below);
}

/** A node and all below it, from the top down. */
export function nodesBelow(layer: BlockLayer, top: QmpNode, found: QmpNode[] = []): QmpNode[] {
  if (found.includes(top)) return found;
  found.push(top);
  for (const child of childrenOf(layer, top)) nodesBelow(layer, child, found);
  return found;
}

function findDevice(layer: BlockLayer, name: string, { alias, source }: DiskDescription): QmpBlockDevice {
  const { devices } = layer;
  const path = source !== undefined && "path" in source ? source.path : undefined;
  const byId = alias === undefined ? [] : devices.filter((device) => deviceId(device) === alias);
  const found =
    byId.length > 0
      ? byId
      : devices.filter(({ inserted }) => path !== undefined && inserted && fileOf(layer, inserted) === path);
  if (found.length === 1) return found[0]!;
  const sought = [alias && `the id '${alias}'`, path && `the image '${path}'`].filter(Boolean).join(" or ");
  const there = devices.map((device) => `'${deviceId(device) ?? device.qdev ?? device.inserted?.file}'`).join(", ");
  const message =
    found.length > 1
      ? `QEMU has ${found.length} devices with ${sought}, and '${name}' could be any of them`
      : `QEMU has no device with ${sought || "a known id or image"} for '${name}': it has ${there || "none"}`;
  throw new StreamdiskError("not-found", message, { node: name });
}

function belowFilters(layer: BlockLayer, top: QmpNode, name: string): QmpNode {
  let node = top;
  const seen = new Set<string>();
  while (FILTERS.has(node.driver) && !seen.has(node.nodeName)) {
    seen.add(node.nodeName);
    const below = childOf(layer, node, ["file", "backing"]);
    if (below === undefined) {
      const message = `It can't be told what lies below QEMU's filter '${node.nodeName}' of '${name}'`;
      throw new StreamdiskError("unsupported", message, { node: name });
    }
    node = below;
  }
  return node;
}

function childOf(layer: BlockLayer, parent: QmpNode, edges: readonly string[]): QmpNode | undefined {
  return childrenOf(layer, parent, edges)[0];
}

/** What a node reads from. */
export function childrenOf({ graph, nodes }: BlockLayer, parent: QmpNode, edges?: readonly string[]): QmpNode[] {
  const ids = idsOf(graph, parent);
  const below = graph.edges.filter((one) => ids.includes(one.parent) && (edges?.includes(one.name) ?? true));
  return below.flatMap(({ child }) => {
    const name = graph.nodes.find(({ id }) => id === child)?.name;
    return nodes.find(({ nodeName }) => nodeName === name) ?? [];
  });
}

function idsOf(graph: QmpGraph, { nodeName }: QmpNode): number[] {
  return graph.nodes.filter(({ type, name }) => type === "block-driver" && name === nodeName).map(({ id }) => id);
}

function refuseJobs(
  { graph }: BlockLayer,
  node: QmpNode,
  { name, purpose }: { readonly name: string; readonly purpose: Purpose },
): void {
  const ids = idsOf(graph, node);
  const parents = graph.edges.filter(({ child }) => ids.includes(child)).map(({ parent }) => parent);
  const job = graph.nodes.find(
    (one) =>
      one.type === "block-job" && parents.includes(one.id) && !(purpose === "look" && one.name.startsWith(JOB_PREFIX)),
  );
  if (job === undefined) return;
  const message = `QEMU's job '${job.name}' is at work on '${name}': wait for it or cancel it first`;
  throw new StreamdiskError("in-use", message, { node: name });
}
