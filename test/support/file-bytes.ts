/** The bytes of a file, and changes to them as values that can be kept, applied later, and applied in part. */

export const SECTOR = 512;

export type FileChange =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: "zero"; readonly offset: number; readonly length: number; readonly grows: boolean }
  | { readonly kind: "resize"; readonly length: number };

export class FileBytes {
  #bytes: Uint8Array;
  #length: number;

  constructor(bytes: Uint8Array = new Uint8Array(0)) {
    this.#bytes = new Uint8Array(bytes); // Not slice(): that of a Buffer copies nothing.
    this.#length = bytes.length;
  }

  get length(): number {
    return this.#length;
  }

  copy(): FileBytes {
    return new FileBytes(this.view());
  }

  /** All of them: no copy. */
  view(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  read(offset: number, target: Uint8Array): void {
    target.set(this.#bytes.subarray(offset, offset + target.length));
  }

  apply(change: FileChange): void {
    if (change.kind === "resize") this.resize(change.length);
    else if (change.kind === "write") this.write(change.offset, change.bytes);
    else {
      const { offset, length, grows } = change;
      const end = grows ? offset + length : Math.min(offset + length, this.#length);
      if (end > this.#length) this.resize(end);
      if (end > offset) this.#bytes.fill(0, offset, end);
    }
  }

  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.#length) this.resize(offset + bytes.length);
    this.#bytes.set(bytes, offset);
  }

  resize(length: number): void {
    if (length < this.#length) this.#bytes.fill(0, length, this.#length);
    if (length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(length, Math.ceil(this.#bytes.length * 1.5)));
      larger.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = larger;
    }
    this.#length = length;
  }

  /** One sector, zeroes past the end. */
  sector(index: number): Uint8Array {
    const sector = new Uint8Array(SECTOR);
    sector.set(this.view().subarray(index * SECTOR, (index + 1) * SECTOR));
    return sector;
  }
}

/** Sectors that a change touches in a file of this length. */
export function touchedSectors(change: FileChange, lengthBefore: number): { first: number; end: number } {
  if (change.kind === "resize") {
    const from = Math.min(change.length, lengthBefore);
    return { first: Math.floor(from / SECTOR), end: Math.ceil(Math.max(change.length, lengthBefore) / SECTOR) };
  }
  const length = change.kind === "write" ? change.bytes.length : change.length;
  return { first: Math.floor(change.offset / SECTOR), end: Math.ceil((change.offset + length) / SECTOR) };
}

/** The beginning of a change, up to a border of sectors; undefined when nothing of it is left. */
export function cutChange(change: FileChange, fraction: number): FileChange | undefined {
  if (change.kind === "resize") return undefined;
  const length = change.kind === "write" ? change.bytes.length : change.length;
  const end = Math.floor((change.offset + length * fraction) / SECTOR) * SECTOR;
  const kept = Math.min(length, end - change.offset);
  if (kept <= 0) return undefined;
  if (change.kind === "zero") return { ...change, length: kept };
  return { ...change, bytes: change.bytes.subarray(0, kept) };
}
