/**
 * What qemu-img and qemu-io say of an image and do to it. Exit codes and outputs are looked at, so that a test which passes has
 * proof that the peer did what it was told.
 */
import assert from "node:assert/strict";
import { type BlockNode, chainExtents, layerExtents } from "../../src/block/index.ts";
import { qemuImg, qemuIo, run } from "./qemu.ts";

/**
 * Does all commands in one qemu-io, and makes sure that each was done.
 *
 * @param commands `write`, `discard`, `read`, `flush`
 */
export function peerDoes(path: string, format: string, commands: readonly string[]): void {
  const said = qemuIo(path, commands, "-f", format, "-d", "unmap");
  const expected = commands.filter((command) => !command.startsWith("flush")).length;
  const done = said.match(/^(wrote|read|discard) (\d+)\/\2 bytes at offset \d+$/gm)?.length ?? 0;
  assert.equal(done, expected, `qemu-io on '${path}': ${said}`);
}

/** The version of the peer, for the log of a test. */
export function qemuVersion(): string {
  return /version (\S+)/.exec(qemuImg("--version"))?.[1] ?? "unknown";
}

/** What `qemu-img check` counts. Throws unless it finds nothing at all. */
export interface PeerCheck {
  readonly "total-clusters": number;
  readonly "allocated-clusters"?: number;
  readonly "fragmented-clusters"?: number;
  readonly "compressed-clusters"?: number;
  readonly "image-end-offset": number;
  readonly "check-errors": number;
  readonly leaks?: number;
  readonly corruptions?: number;
}

/** `qemu-img check`, which must find neither leaks nor damage. */
export function qemuCheck(path: string, format: string): PeerCheck {
  return JSON.parse(qemuImg("check", "-f", format, "--output=json", path));
}

/** `qemu-img check` of an image that may be damaged. */
export function qemuCheckStatus(path: string, format: string): PeerCheck & { readonly status: number | null } {
  const { status, stdout } = run("qemu-img", "check", "-f", format, "--output=json", path);
  return { ...JSON.parse(stdout), status };
}

/** The peer finds that the image holds what the raw file holds. */
export function mustCompare(path: string, format: string, rawPath: string): void {
  assert.match(qemuImg("compare", "-f", format, "-F", "raw", path, rawPath), /^Images are identical\.$/m);
}

/** A line of `qemu-img map --output=json`. */
export interface MapLine {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  /** Where it lies in the file of its layer, if it is present and lies there as it is. */
  readonly offset?: number;
}

/** @param flags `-U` for an image that somebody holds */
export function qemuMap(path: string, format: string, ...flags: readonly string[]): MapLine[] {
  const lines = JSON.parse(qemuImg("map", ...flags, "-f", format, "--output=json", path)) as MapLine[];
  return joined(
    lines.map(({ start, length, depth, present, zero, data, offset }) => ({
      ...{ start, length, depth, present, zero, data },
      // Of extended L2, QEMU tells the place of parts that are not there.
      ...(offset !== undefined && present && { offset }),
    })),
  );
}

/** What our extents say, in the peer's words. */
export async function ourMap(node: BlockNode): Promise<MapLine[]> {
  const lines: MapLine[] = [];
  for await (const { offset: start, length, depth, kind, hostOffset } of chainExtents(node)) {
    if (kind === "data") {
      const place = hostOffset === undefined ? {} : { offset: hostOffset };
      lines.push({ start, length, depth, present: true, zero: false, data: true, ...place });
      continue;
    }
    // Past the end of a shorter layer it is zero although the layer that answers has nothing.
    let layer = node;
    for (let above = 0; above < depth; above++) layer = layer.backing ?? layer;
    for await (const part of layerExtents(layer, start, length)) {
      const present = part.kind !== "missing";
      const place = part.hostOffset === undefined ? {} : { offset: part.hostOffset };
      lines.push({ start: part.offset, length: part.length, depth, present, zero: true, data: false, ...place });
    }
  }
  return joined(lines);
}

/** Joins what belongs together: where a line ends for no reason is nobody's business. */
function joined(lines: readonly MapLine[]): MapLine[] {
  const out: MapLine[] = [];
  for (const line of lines) {
    const last = out.at(-1);
    const joins =
      last !== undefined &&
      last.depth === line.depth &&
      last.present === line.present &&
      last.data === line.data &&
      (last.offset === undefined ? line.offset === undefined : last.offset + last.length === line.offset);
    if (joins) out[out.length - 1] = { ...last, length: last.length + line.length };
    else out.push(line);
  }
  return out;
}
