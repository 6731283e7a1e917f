/**
 * Puts another source below an overlay that a running QEMU owns: the old one has died for good, or has moved.
 *
 * 1. The new source is opened here, by the policy for backing references: its size must be that of the node below the overlay.
 * 2. QEMU opens it too, as a node of its own (`blockdev-add`).
 * 3. It is compared with the old source, through a read-only export, where that can be read still. One that does not answer is given up
 *    for good (`yank`): requests of the guest that wait for it fail, since QEMU would wait for them with its monitor held in the next step.
 *    Those that wait for a server that is not there are answered by a stand-in (`standInFor`).
 * 4. The overlay is put over the new node.
 * 5. Where the old source could not be read, the new one is compared with what the overlay has itself; QEMU does not tell what that is before.
 *    A guest may have written any part of it, so ranges that agree are evidence, and that nothing does is a doubt which is told.
 * 6. The reference in the image follows. QEMU has `change-backing-file` for that, which writes the image's own format for that of the
 *    backing file; a `block-stream` down to the node that lies there already copies nothing and writes both right.
 * 7. What lay below is taken out as far as nothing else uses it, and a machine that has stopped by an I/O error goes on.
 *
 * What fails before the fourth step changes nothing, but that an old source which hangs has been given up.
 */
import { randomBytes } from "node:crypto";
import type { Extent } from "../../block/index.ts";
import { openChain } from "../../chain/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { FormatName, FormatNode } from "../../formats/index.ts";
import { agreeingBytes, differenceInSamples, type ImageOptions } from "../../image/index.ts";
import type { NbdNode } from "../../nbd/index.ts";
import { shownReference } from "../../sources/index.ts";
import { sourceNodes } from "../machine/disk-nodes.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpNode } from "../qmp/commands.ts";
import { finishJob, withJob } from "./drop-backing.ts";
import type { FillExport, FillServer } from "./fill-server.ts";
import { flushNode, relinkNode } from "./human-monitor.ts";
import { nodesBelow, type Overlay, queryBlockLayer } from "./locate-overlay.ts";
import { removeNodes, sourceName } from "./own-sources.ts";
import { RECONNECT_MS, standInFor } from "./stand-in.ts";

/** How long the old source may take for its first answer. */
const PATIENCE_MS = 5000;
/** What reads of the old source fail with: an error of its own, or no answer for so long that the link to it was given up. */
const UNREADABLE: ReadonlySet<string> = new Set(["io", "source-lost"]);

export interface ReplaceSourceOptions extends Pick<ImageOptions, "allowBacking" | "sourceOptions"> {
  /** A URI, or an absolute path; it will stand in the image. */
  readonly backing: string;
  /** Absent: the first bytes of the file decide. */
  readonly backingFormat?: FormatName | undefined;
  /** Takes a source of another size or content. @default false */
  readonly force?: boolean;
  /** Lets a machine go on that an I/O error has stopped. @default true */
  readonly goOn?: boolean;
}

export interface SourceReplaced {
  /** Bytes that were found equal. */
  readonly compared: number;
  readonly warnings: readonly string[];
}

/** Who replaces the source of what. */
export interface Replacing {
  readonly qmp: QmpClient;
  readonly server: FillServer;
  readonly overlay: Overlay;
}

/** @throws {StreamdiskError} `refused` for a source that can't be the same, and as `openChain` and QEMU say */
export async function replaceSource(of: Replacing, options: ReplaceSourceOptions): Promise<SourceReplaced> {
  const { qmp, overlay } = of;
  const { backing, backingFormat, allowBacking, sourceOptions } = options;
  if (overlay.backingNode === undefined) {
    const message = `'${overlay.name}' stands alone: it has all that it needs, and no source to be replaced`;
    throw new StreamdiskError("refused", message, { node: overlay.name });
  }
  const spec = { file: backing, readOnly: true, format: backingFormat };
  await using chain = await openChain(spec, { allowBacking, sourceOptions });
  const node = sourceName(randomBytes(6).toString("hex"));
  const [, ...layersBelow] = chain.layers.map(({ path, format }) => ({ reference: path, format }));
  const top = { reference: backing, format: chain.node.format };
  const layer = await queryBlockLayer(qmp);
  const old = layer.nodes.find(({ nodeName }) => nodeName === overlay.backingNode)!;
  const warnings = [...chain.warnings, ...sizesDiffer(overlay, chain.node, old.length, options)];
  const below = nodesBelow(layer, old);
  const nameOf = (index: number): string => (index === 0 ? node : `${node}-b${index}`);
  const nodes = sourceNodes(nameOf, [top, ...layersBelow]);
  const remove = (): Promise<void> => removeNodes(qmp, nodes.map((one) => String(one["node-name"])).reverse());
  try {
    for (const one of nodes) await qmp.execute("blockdev-add", one);
  } catch (error) {
    await remove();
    throw error;
  }
  let found: SourceReplaced | undefined;
  const standIn = await standInFor(below, chain.node);
  try {
    found = await compareWithOld(of, chain.node, { below, standsIn: standIn !== undefined }, options);
    await relinkNode(qmp, overlay, node);
  } catch (error) {
    await remove().catch(() => {});
    throw error;
  } finally {
    await standIn?.close();
  }
  found ??= await compareWithLocal(of, chain.node);
  warnings.push(...found.warnings, ...(await writeReference(qmp, overlay, node, backing)));
  await removeNodes(
    qmp,
    below.map(({ nodeName }) => nodeName),
  );
  const { goOn = true } = options;
  if (goOn && (await qmp.execute("query-status", {})) === "io-error") await qmp.execute("cont", {});
  return { compared: found.compared, warnings };
}

function sizesDiffer({ name }: Overlay, now: FormatNode, length: number, { force }: ReplaceSourceOptions): string[] {
  if (now.length === length) return [];
  const said = `The new source '${now.name}' of '${name}' has ${now.length} bytes and the old one ${length}`;
  if (force) return [said];
  const message = `${said}: take it all the same with --force (force: true)`;
  throw new StreamdiskError("refused", message, { node: name });
}

interface OldSource {
  /** Its nodes, from the top down. */
  readonly below: readonly QmpNode[];
  /** Whether the new source is in its place. */
  readonly standsIn: boolean;
}

/** @returns undefined when the old source can't be read; QEMU waits for nothing of it any more then */
async function compareWithOld(
  { qmp, server, overlay }: Replacing,
  now: FormatNode,
  { below, standsIn }: OldSource,
  { force }: ReplaceSourceOptions,
): Promise<SourceReplaced | undefined> {
  const { name, backingNode } = overlay;
  const exported = await server.export({ node: backingNode! });
  if (typeof exported === "string") return undefined;
  try {
    const { node } = exported;
    const patience = AbortSignal.timeout(standsIn ? RECONNECT_MS : PATIENCE_MS);
    await node.read(0, new Uint8Array(Math.min(512, node.length)), patience);
    if (standsIn) return undefined;
    const { compared, difference } = await differenceInSamples(node, now);
    if (difference === undefined) return { compared, warnings: [] };
    const said = `The new source '${now.name}' of '${name}' differs from the old one at ${difference}`;
    if (force) return { compared, warnings: [said] };
    const message = `${said}: take it all the same with --force (force: true)`;
    throw new StreamdiskError("refused", message, { node: name, offset: difference });
  } catch (error) {
    if (error instanceof StreamdiskError) {
      // One of the new source's own, and whatever is no failure to read.
      if (error.context.node !== exported.node.name || !UNREADABLE.has(error.code)) throw error;
      if (error.code === "io") return undefined;
    }
    await giveUp(qmp, overlay, below);
    return undefined;
  } finally {
    await exported.remove();
  }
}

/** QEMU reads by the new source already: what goes wrong here leaves only a doubt. */
async function compareWithLocal(of: Replacing, now: FormatNode): Promise<SourceReplaced> {
  const nothing = (why: string): SourceReplaced => ({
    compared: 0,
    warnings: [`Nothing was compared with '${now.name}': ${why}`],
  });
  try {
    const exported = await of.server.export(of.overlay);
    return typeof exported === "string" ? nothing(exported) : await compareWithExport(of, now, exported);
  } catch (error) {
    if (!(error instanceof StreamdiskError)) throw error;
    return nothing(error.message);
  }
}

async function compareWithExport(
  { overlay }: Replacing,
  now: FormatNode,
  exported: FillExport,
): Promise<SourceReplaced> {
  try {
    const { node } = exported;
    const compared = await agreeingBytes(node, now, localExtents(node, Math.min(node.length, now.length)));
    const doubt = `The old source of '${overlay.name}' can't be read, and nothing of the disk is known to agree with '${now.name}'`;
    return { compared, warnings: compared === 0 ? [doubt] : [] };
  } finally {
    await exported.remove();
  }
}

async function* localExtents(node: NbdNode, length: number): AsyncGenerator<Extent, void, undefined> {
  for (let at = 0; at < length; ) {
    for (const run of (await node.allocationDepths(at, length - at)) ?? []) {
      yield { offset: run.offset, length: run.length, kind: run.depth === 1 ? "data" : "missing", depth: 0 };
      at = run.offset + run.length;
    }
  }
}

/** Has QEMU fail what waits for servers that don't answer. */
async function giveUp(qmp: QmpClient, { name }: Overlay, below: readonly QmpNode[]): Promise<void> {
  const nodes = below.filter(({ driver }) => driver === "nbd");
  if (nodes.length > 0) {
    const instances = nodes.map(({ nodeName }) => ({ type: "block-node", "node-name": nodeName }) as const);
    await qmp.execute("yank", { instances });
    return;
  }
  // A read of a file that hangs can't be called back, and QEMU would hang with it.
  const files = below.map(({ file }) => shownReference(file));
  const message = `The old source of '${name}' does not answer, and is no NBD server that could be given up ('${files.at(-1)}'): make it fail or answer first`;
  throw new StreamdiskError("in-use", message, { node: name });
}

/** @returns what went wrong with it: QEMU itself reads by the new node already */
async function writeReference(qmp: QmpClient, overlay: Overlay, node: string, backing: string): Promise<string[]> {
  try {
    await withJob(qmp, async (id) => {
      const job = { "job-id": id, device: overlay.node, "auto-finalize": false, "auto-dismiss": false } as const;
      await qmp.execute("block-stream", { ...job, "base-node": node, "backing-file": backing });
      await finishJob(qmp, overlay.name, { id, copies: false, flush: () => flushNode(qmp, overlay) });
    });
    return [];
  } catch (error) {
    if (!(error instanceof StreamdiskError)) throw error;
    return [`QEMU reads by the new source, but the image names the old one still: ${error.message}`];
  }
}
