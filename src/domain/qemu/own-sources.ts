/**
 * Nodes below an overlay that streamdisk itself has put into QEMU, by their names: QEMU keeps them, and stays connected to what they read, until it is told to
 * let go of them.
 */
import { isBelowDisk } from "../machine/disk-nodes.ts";
import type { QmpClient } from "../qmp/client.ts";
import { unlessRefused } from "../qmp/qmp-error.ts";
import { flushNode } from "./human-monitor.ts";
import { type BlockLayer, nodesBelow, type Overlay, queryBlockLayer } from "./locate-overlay.ts";

const SOURCE_PREFIX = "sd-source-";

/** The name of a node for a new source. QEMU takes 31 characters, and the names of what lies below are made of it. */
export function sourceName(random: string): string {
  return `${SOURCE_PREFIX}${random}`;
}

/**
 * The nodes below an overlay that are to be taken out when its link has gone, from the top down. Of one whose link has gone already: those
 * that a machine was started with, which a process before this one has left when it died in between.
 */
export async function ownSources(qmp: QmpClient, { node, backingNode }: Overlay): Promise<string[]> {
  const layer = await queryBlockLayer(qmp);
  const top = layer.nodes.find(({ nodeName }) => nodeName === backingNode);
  if (top === undefined) return layersOf(layer, node);
  const names = nodesBelow(layer, top).map(({ nodeName }) => nodeName);
  return names.filter((name) => isBelowDisk(name) || (name.startsWith(SOURCE_PREFIX) && !name.endsWith("-file")));
}

function layersOf({ nodes }: BlockLayer, disk: string): string[] {
  const names = nodes.map(({ nodeName }) => nodeName).filter((name) => isBelowDisk(name, disk));
  return names.sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
}

/** Takes out what nothing else uses. */
export async function removeNodes(qmp: QmpClient, names: readonly string[]): Promise<void> {
  for (const name of names) {
    // QEMU may have made it by itself, and it is gone, or others use it.
    await unlessRefused(qmp.execute("blockdev-del", { "node-name": name }));
  }
}

/**
 * Ends what was begun with an overlay whose link was dropped, and whoever saw to that was lost right then: makes it durable, and takes out
 * what is left of the source.
 */
export async function endWithoutLink(qmp: QmpClient, overlay: Overlay): Promise<void> {
  await flushNode(qmp, overlay);
  await removeNodes(qmp, await ownSources(qmp, overlay));
}
