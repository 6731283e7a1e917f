/**
 * A raw image: the bytes of the file are the bytes of the disk. It can neither lie over a backing file nor say that it is
 * damaged.
 *
 * Disks have whole sectors, files need not. As in QEMU a file whose length is no multiple of 512 makes a disk that ends with its
 * last sector: what the file lacks of it reads as zeroes, and a write there makes the file longer. Only where it could not (a device
 * or export of odd size, open for writing) does the disk end with the file.
 */
import { type BlockNode, type Extent, validateOpen, validateRange, validateWritable } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { CheckResult, FormatDetails, FormatNode } from "../format.ts";

const SECTOR = 512;

/**
 * Opens a file as a raw image. Its length is the file's at this moment, rounded up to sectors.
 *
 * @param options.readOnly a file that is open for writing is not written all the same
 */
export async function openRaw(file: BlockNode, options: { readonly readOnly: boolean }): Promise<FormatNode> {
  return new RawNode(file, options.readOnly || file.readOnly);
}

class RawNode implements FormatNode {
  readonly format = "raw";
  readonly file: BlockNode;
  readonly clusterSize = undefined;
  readonly warnings: readonly string[] = [];
  readonly readOnly: boolean;
  readonly grows = false;
  readonly backing = undefined;
  #length: number;
  #closing: Promise<void> | undefined;

  constructor(file: BlockNode, readOnly: boolean) {
    this.file = file;
    this.readOnly = readOnly;
    this.#length = this.#diskLength(file.length);
  }

  get name(): string {
    return this.file.name;
  }

  get length(): number {
    return this.#length;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#validate("read", offset, target.length);
    const present = this.#inFile(offset, target.length);
    if (present === target.length) return this.file.read(offset, target, signal);
    target.fill(0, present);
    if (present > 0) await this.file.read(offset, target.subarray(0, present), signal);
  }

  readNow(offset: number, target: Uint8Array): boolean {
    const inside = this.#closing === undefined && offset >= 0 && offset + target.length <= this.file.length;
    return inside && (this.file.readNow?.(offset, target) ?? false);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#validateChange("write", offset, data.length);
    await this.file.write(offset, data);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#validateChange("write zeroes to", offset, length);
    const present = this.#inFile(offset, length);
    if (present > 0) await this.file.writeZeroes(offset, present);
  }

  canZeroFast(offset: number, length: number): boolean {
    return this.file.canZeroFast?.(offset, length) ?? false;
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#validateChange("discard", offset, length);
    const present = this.#inFile(offset, length);
    if (present > 0) await this.file.discard(offset, present);
  }

  async flush(): Promise<void> {
    this.#validate("flush", 0, 0);
    if (!this.readOnly) await this.file.flush();
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#validate("map", offset, length);
    const present = this.#inFile(offset, length);
    const found: Extent[] = [];
    if (present > 0) {
      for (const extent of await this.file.extents(offset, present))
        found.push({ ...extent, hostOffset: extent.offset });
    }
    const last = found.at(-1);
    const reached = last === undefined ? offset : last.offset + last.length;
    if (reached === offset + present && present < length) {
      found.push({ offset: reached, length: length - present, kind: "zero", depth: 0, hostOffset: reached });
    }
    return found;
  }

  async resize(length: number): Promise<void> {
    this.#validateChange("resize", 0, 0);
    await this.file.resize(length);
    this.#length = this.#diskLength(length);
  }

  describe(): FormatDetails {
    return { "dirty-flag": false };
  }

  async check(): Promise<CheckResult> {
    throw new StreamdiskError("unsupported", `Could not check '${this.name}': raw images have no metadata to check`, {
      node: this.name,
      operation: "check",
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.file.close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #diskLength(fileLength: number): number {
    return this.readOnly || this.file.grows ? Math.ceil(fileLength / SECTOR) * SECTOR : fileLength;
  }

  /** How many of the bytes the file has. */
  #inFile(offset: number, length: number): number {
    return Math.max(0, Math.min(length, this.file.length - offset));
  }

  #validate(operation: string, offset: number, length: number): void {
    validateOpen(this, operation, this.#closing !== undefined);
    validateRange(this, operation, offset, length);
  }

  #validateChange(operation: string, offset: number, length: number): void {
    this.#validate(operation, offset, length);
    validateWritable(this, operation);
  }
}
