/**
 * Expands compressed clusters: raw deflate streams, or zstd frames (QEMU docs/interop/qcow2, "Compressed Clusters Descriptor" and
 * "compression_type").
 *
 * The image says where a cluster's compressed bytes begin and in which sector they end; what follows them in that sector may belong to
 * another cluster. Expanding stops at a cluster's worth of data: less or more than that is damage. The output and zstd's window
 * are bounded, so that a few bytes cannot ask for more memory than a cluster needs.
 */
import { promisify } from "node:util";
import { constants, inflateRaw, zstdDecompress } from "node:zlib";
import type { Decompress } from "../mapped/reader.ts";
import type { CompressionType } from "./header.ts";
import { invalidImage } from "./refusals.ts";
import { zstdFrameLength } from "./zstd-frame.ts";

const inflate = promisify(inflateRaw);
const zstd = promisify(zstdDecompress);

/** 16 MiB: QEMU's level makes windows of at most 2 MiB, the size of the largest cluster. */
const MAX_WINDOW_BITS = 24;
/** QEMU writes one frame a cluster and reads any number; a host of tiny ones would only cost time. */
const MAX_FRAMES = 64;
/** Past the end of a cluster: without it zlib, which cannot know that there is no more, goes on into a second buffer. */
const ROOM = 64;

/** The expander of one image's clusters. It refuses damage with `invalid-image` and the guest offset. */
export function decompressor(image: {
  readonly type: CompressionType;
  readonly clusterSize: number;
  readonly node: string;
}): Decompress {
  const { type, clusterSize, node } = image;
  const expand = type === "zlib" ? expandDeflate : expandZstd;
  return async (compressed, guestOffset) => {
    let cluster: Uint8Array | undefined;
    let why = "they are not valid";
    try {
      cluster = await expand(compressed, clusterSize);
      why = `they hold ${cluster.length} bytes, and a cluster has ${clusterSize}`;
    } catch (error) {
      if (error instanceof Error) why = error.message;
    }
    if (cluster?.length === clusterSize) return cluster;
    throw invalidImage(
      node,
      `the ${type} data of its compressed cluster at guest offset ${guestOffset} cannot be expanded: ${why}`,
      {
        operation: "read",
        offset: guestOffset,
        length: clusterSize,
      },
    );
  };
}

async function expandDeflate(compressed: Uint8Array, clusterSize: number): Promise<Uint8Array> {
  // Some writers leave the end mark out; the length of the output is checked by the caller.
  return inflate(compressed, {
    maxOutputLength: clusterSize,
    chunkSize: clusterSize + ROOM,
    finishFlush: constants.Z_SYNC_FLUSH,
  });
}

/** A cluster may be made of several frames, one behind the other. */
async function expandZstd(compressed: Uint8Array, clusterSize: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let rest = compressed;
  let missing = clusterSize;
  while (missing > 0 && parts.length < MAX_FRAMES) {
    const length = zstdFrameLength(rest);
    if (length === undefined) break;
    const part = await zstd(rest.subarray(0, length), {
      maxOutputLength: missing,
      chunkSize: missing + ROOM,
      params: { [constants.ZSTD_d_windowLogMax]: MAX_WINDOW_BITS },
    });
    if (part.length === 0) break;
    parts.push(part);
    missing -= part.length;
    rest = rest.subarray(length);
  }
  return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
}
