/**
 * Changes of a qcow2 header, as lists of writes. Pure; `header.ts` says what lies where.
 *
 * Each write is to be durable before the next. All fixed fields lie in the first sector (512 bytes), which a disk writes whole or not
 * at all, so that a change of fields is one write and atomic.
 *
 * The backing reference is more than fields: the name, and its format among the extensions, may lie outside the first sector, and
 * a format of another length moves every extension behind it. At every point between and inside the writes the header must be
 * valid and name either the old file or the new one:
 * 1. the new name goes where neither the old name nor the extensions lie;
 * 2. the first sector turns to it. If the extensions in further sectors stay as they are, that is all. If not, this sector ends
 *    the list early, leaving out the feature name table, which is only for people;
 * 3. the extensions in further sectors are written, nobody reading them;
 * 4. the first sector takes the whole list.
 * When all fits into the first sector, one write does it.
 */
import type { BackingReference } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { MetadataWrite } from "../mapped/allocator.ts";
import { EXTENSION, encodeExtensions, type HeaderExtension } from "./extensions.ts";
import { AUTOCLEAR, type FeatureWords, INCOMPATIBLE } from "./features.ts";
import { MAX_BACKING_NAME, type NamePlace, type Qcow2Header } from "./header.ts";
import { encodeFields, encodeHeader, withExtensions } from "./header-encode.ts";
import { unsupportedImage } from "./refusals.ts";

const SECTOR = 512;

/** A changed header and what makes it so on disk: each write is to be durable before the next. */
export interface HeaderUpdate {
  readonly header: Qcow2Header;
  readonly writes: readonly MetadataWrite[];
}

/** Changes fields that stand for themselves. */
export function setFields(
  header: Qcow2Header,
  fields: Partial<Pick<Qcow2Header, "size" | "l1" | "refcountTable">>,
): HeaderUpdate {
  return inFields({ ...header, ...fields });
}

/**
 * Marks an image as being changed by us (ADR 1), or as closed: the dirty bit, and an autoclear bit of our own. All other autoclear
 * bits are cleared, as none of those features, bitmaps included, is maintained here. Version 3 only.
 */
export function setMark(header: Qcow2Header, marked: boolean): HeaderUpdate {
  const { incompatible } = header.features;
  return setFeatures(header, {
    incompatible: marked ? incompatible | INCOMPATIBLE.dirty : incompatible & ~INCOMPATIBLE.dirty,
    autoclear: marked ? AUTOCLEAR.streamdiskLog : 0n,
  });
}

/**
 * Changes the reference to the backing file; undefined removes it.
 *
 * @throws {StreamdiskError} `invalid-argument` for a name that cannot be, `unsupported` when the first cluster has no room for it
 */
export function setBacking(header: Qcow2Header, backing: BackingReference | undefined, node: string): HeaderUpdate {
  if (backing === undefined) return dropBacking(header, node);
  const name = encodeName(backing, node);
  const extensions = withFormat(header.extensionList.extensions, backing.format);
  const place = (changed: Qcow2Header, at: NamePlace) => ({ ...changed, backing, backingName: at });

  const whole = withExtensions(header, extensions);
  const { end } = whole.extensionList;
  if (end + name.length <= Math.min(SECTOR, header.clusterSize)) {
    const small = place(whole, { offset: end, length: name.length });
    return { header: small, writes: [{ offset: 0, bytes: encodeHeader(small, node) }] };
  }
  const at = { offset: freeName(header, end, name.length, node), length: name.length };
  const turned = turnTo(header, place(whole, at), node);
  if (turned === undefined) {
    throw unsupportedImage(node, `its header has no room to change the backing format safely: ${end} bytes are in use`);
  }
  return { ...turned, writes: [{ offset: at.offset, bytes: name }, ...turned.writes] };
}

function setFeatures(header: Qcow2Header, features: Partial<FeatureWords>): HeaderUpdate {
  return inFields({ ...header, features: { ...header.features, ...features } });
}

function inFields(header: Qcow2Header): HeaderUpdate {
  return { header, writes: [{ offset: 0, bytes: encodeFields(header) }] };
}

function dropBacking(header: Qcow2Header, node: string): HeaderUpdate {
  const alone = { ...header, backing: undefined, backingName: undefined };
  const { extensions, end, endMark } = header.extensionList;
  const turned = turnTo(header, withExtensions(alone, withFormat(extensions, undefined)), node);
  if (turned !== undefined) return turned;
  // A format without a file says nothing, so it may stay. The name is what ended a list without a mark.
  if (endMark) return inFields(alone);
  throw unsupportedImage(node, `its header extensions (up to byte ${end}) have no end mark, and no room for one`);
}

/** Steps 2 to 4. Undefined when the list cannot end early in the first sector. */
function turnTo(before: Qcow2Header, after: Qcow2Header, node: string): HeaderUpdate | undefined {
  const bytes = encodeHeader(after, node);
  const last = { offset: 0, bytes: bytes.subarray(0, SECTOR) };
  const { end, extensions } = after.extensionList;
  if (end <= SECTOR || sameTail(before, after)) return { header: after, writes: [last] };
  const early = withExtensions(
    after,
    extensions.filter(({ type }) => type !== EXTENSION.featureNames),
  );
  if (early.extensionList.end > SECTOR) return undefined;
  const first = { offset: 0, bytes: encodeHeader(early, node).subarray(0, SECTOR) };
  return { header: after, writes: [first, { offset: SECTOR, bytes: bytes.subarray(SECTOR, end) }, last] };
}

/** Whether the two lists lie alike outside the first sector. */
function sameTail(before: Qcow2Header, after: Qcow2Header): boolean {
  const [a, b] = [before.extensionList, after.extensionList];
  if (!a.endMark || a.end !== b.end) return false;
  const tail = a.end - SECTOR;
  return (
    Buffer.compare(encodeExtensions(a.extensions).subarray(-tail), encodeExtensions(b.extensions).subarray(-tail)) === 0
  );
}

/** The list with a format in the place of the old one, or as the first. */
function withFormat(extensions: readonly HeaderExtension[], format: string | undefined): HeaderExtension[] {
  const others = extensions.filter(({ type }) => type !== EXTENSION.backingFormat);
  if (format === undefined) return others;
  const index = extensions.findIndex(({ type }) => type === EXTENSION.backingFormat);
  const extension = { type: EXTENSION.backingFormat, data: new TextEncoder().encode(format) };
  return others.toSpliced(Math.max(index, 0), 0, extension);
}

/** Finds room for a name that overlaps neither list of extensions nor the present name. */
function freeName(header: Qcow2Header, newEnd: number, length: number, node: string): number {
  const start = Math.max(header.extensionList.end, newEnd);
  const present = header.backingName;
  const free = present === undefined || start + length <= present.offset;
  const offset = free ? start : Math.max(start, present.offset + present.length);
  if (offset + length <= header.clusterSize) return offset;
  throw unsupportedImage(
    node,
    `its first cluster (${header.clusterSize} bytes) has no room for the name of a backing file of ${length} bytes${free ? "" : " beside the present one"}`,
  );
}

/** @throws {StreamdiskError} `invalid-argument` */
export function encodeName({ reference }: BackingReference, node: string): Uint8Array {
  const name = new TextEncoder().encode(reference);
  if (name.length > 0 && name.length <= MAX_BACKING_NAME && !name.includes(0)) return name;
  const what = name.includes(0) ? "contains a zero byte" : `has ${name.length} bytes, not 1 to ${MAX_BACKING_NAME}`;
  throw new StreamdiskError("invalid-argument", `Backing file name for '${node}' ${what}`, { node });
}
