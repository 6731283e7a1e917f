/**
 * Header extensions (QEMU docs/interop/qcow2, "Header extensions"): after the header's fields, a list of type, length and
 * data, each padded to 8 bytes, up to an end mark. Pure.
 *
 * Every extension is kept byte for byte, known or not, in its order. The list ends at the mark, at the name of the backing file, or
 * at the end of the first cluster: images of the oldest QEMUs have no mark.
 */
import { viewOf } from "./big-endian.ts";
import { invalidImage } from "./refusals.ts";

export const EXTENSION = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const;

export interface HeaderExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

export interface ExtensionList {
  readonly extensions: readonly HeaderExtension[];
  /** Offset behind the list, the end mark included. */
  readonly end: number;
  readonly endMark: boolean;
}

const HEAD_BYTES = 8;
/** No writer has more than five; this bounds what a file of zero-length extensions may cost. */
const MAX_EXTENSIONS = 1024;
const KNOWN = new Set<number>(Object.values(EXTENSION));

/**
 * Reads the list that lies in [start, limit) of the first cluster.
 *
 * @throws {StreamdiskError} `invalid-image` for one that reaches past `limit`, and for a known one that is there twice
 */
export function parseExtensions(bytes: Uint8Array, start: number, limit: number, node: string): ExtensionList {
  const view = viewOf(bytes);
  const extensions: HeaderExtension[] = [];
  const seen = new Set<number>();
  let at = start;
  while (at + HEAD_BYTES <= limit) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === EXTENSION.end) return { extensions, end: at + HEAD_BYTES, endMark: true };
    const name = `header extension 0x${type.toString(16)} at ${at}`;
    if (length > limit - at - HEAD_BYTES) {
      throw invalidImage(node, `its ${name} has ${length} bytes, and the header's room ends at ${limit}`);
    }
    if (KNOWN.has(type) && seen.has(type)) throw invalidImage(node, `its ${name} is there twice`);
    if (extensions.length === MAX_EXTENSIONS) {
      throw invalidImage(node, `it has more than ${MAX_EXTENSIONS} header extensions`);
    }
    seen.add(type);
    extensions.push({ type, data: bytes.slice(at + HEAD_BYTES, at + HEAD_BYTES + length) });
    at += extensionBytes(length);
  }
  return { extensions, end: Math.min(at, limit), endMark: false };
}

/** Writes a list, with its end mark unless the image has none. */
export function encodeExtensions(extensions: readonly HeaderExtension[], endMark = true): Uint8Array {
  const length = extensions.reduce((sum, { data }) => sum + extensionBytes(data.length), endMark ? HEAD_BYTES : 0);
  const bytes = new Uint8Array(length);
  const view = viewOf(bytes);
  let at = 0;
  for (const { type, data } of extensions) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + HEAD_BYTES);
    at += extensionBytes(data.length);
  }
  return bytes;
}

export function findExtension(extensions: readonly HeaderExtension[], type: number): Uint8Array | undefined {
  return extensions.find((extension) => extension.type === type)?.data;
}

function extensionBytes(dataLength: number): number {
  return HEAD_BYTES + Math.ceil(dataLength / 8) * 8;
}
