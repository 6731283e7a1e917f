/**
 * Changes the virtual size. All clusters are locked exclusively, and nothing else goes on.
 *
 * Growing: whatever the larger disk would show past the old end (the base, a cluster that a larger disk once had, the rest of
 * the last cluster) is made to read as zeroes, durably, and only then does the header say that it is there. Shrinking goes the other
 * way round. So at every crash point the disk has the one size or the other, and never shows what it should not.
 */
import type { BlockNode } from "../../block/index.ts";
import type { Checkpoints } from "./checkpoint.ts";
import type { MappingCodec } from "./codec.ts";
import { type Geometry, roundUp } from "./geometry.ts";
import type { ImageHeader } from "./image-header.ts";
import type { MappedReader } from "./reader.ts";
import type { MappingTables } from "./tables.ts";
import type { MappedWriter } from "./writer.ts";
import type { MappedZeroer } from "./zeroer.ts";

/** The parts of a node that a change of size needs. */
export interface Resizable {
  readonly codec: MappingCodec;
  readonly geometry: Geometry;
  readonly tables: MappingTables;
  readonly header: ImageHeader;
  readonly checkpoints: Checkpoints;
  readonly reader: MappedReader;
  readonly writer: MappedWriter;
  readonly zeroer: MappedZeroer;
  readonly hasBacking: () => boolean;
  readonly backing: () => BlockNode | undefined;
  readonly length: () => number;
  readonly setLength: (length: number) => void;
}

export async function grow(image: Resizable, length: number): Promise<void> {
  const { tables, header, checkpoints, geometry } = image;
  const old = image.length();
  await checkpoints.run(true);
  if (length > tables.capacity) {
    const turn = await header.growL1(length);
    await checkpoints.run(true);
    await checkpoints.alone(turn);
  }
  const partEnd = Math.min(length, roundUp(old, geometry.grain));
  if (partEnd > old) await hideTail(image, old, partEnd);
  image.setLength(length);
  try {
    await hide(image, partEnd, length);
    await checkpoints.run(true);
    await checkpoints.alone(() => header.setLength(length));
  } catch (error) {
    image.setLength(old);
    throw error;
  }
}

/** Whole parts that would show something become zero. */
async function hide(image: Resizable, start: number, end: number): Promise<void> {
  const { reader, zeroer, geometry } = image;
  let position = start;
  while (position < end) {
    for (const extent of await reader.extents(position, end - position)) {
      position = extent.offset + extent.length;
      const shownEnd = extent.kind === "missing" ? Math.min(position, image.backing()?.length ?? position) : position;
      const shows = extent.kind === "data" || (extent.kind === "missing" && image.hasBacking());
      if (shows && shownEnd > extent.offset) {
        await zeroer.zero(extent.offset, roundUp(shownEnd, geometry.grain), false);
      }
    }
  }
}

/** The last part of the disk was shorter than a grain: what its space or the base holds past the old end becomes zeroes. */
async function hideTail(image: Resizable, old: number, partEnd: number): Promise<void> {
  const extents = await image.reader.extents(old, partEnd - old);
  const baseShows = image.hasBacking() && (image.backing()?.length ?? partEnd) > old;
  const shown = extents.some(({ kind }) => kind === "data" || (kind === "missing" && baseShows));
  // The length is the old one still, so that the fill of the part's beginning takes the old content and zeroes after it.
  if (shown) await image.writer.place(old, new Uint8Array(partEnd - old), false);
}

export async function shrink(image: Resizable, length: number): Promise<void> {
  const { header, checkpoints, codec, geometry, zeroer, reader } = image;
  const old = image.length();
  await checkpoints.run(true);
  await checkpoints.alone(() => header.setLength(length));
  image.setLength(length);
  // Without a zero in the format the clusters would have to be written: they stay, and growing again zeroes them.
  if (!codec.hasZero && image.hasBacking()) return;
  const end = roundUp(old, geometry.clusterSize);
  let position = roundUp(length, geometry.clusterSize);
  while (position < end) {
    for (const extent of await reader.extents(position, end - position)) {
      position = extent.offset + extent.length;
      // What is missing has no space to give back: to note terabytes of it as zeroes would take some.
      if (extent.kind === "data") await zeroer.zero(extent.offset, position, false);
    }
  }
  await checkpoints.run(true);
}
