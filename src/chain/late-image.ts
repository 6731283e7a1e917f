/**
 * A backing image whose source is away: it takes the place of the image until that can be opened, so that what lies above it is
 * served meanwhile.
 *
 * Whoever wants something of it asks through its *gate* (`LatePolicy.watch`): a watch over a node of which every read tries to open
 * the image. So a source that never was there is lost, probed and back like one that was: it has one state, its requests fail at
 * once with the error that told of the loss, and whoever waits for the end of that waits for this one too. When the image has been
 * opened the gate is not asked any more.
 *
 * Nothing needs to be known of the image before. It is taken for endless, so that nothing above it takes what it may hold for the zeroes past
 * its end; and what was asked of it by that is zero where it turns out to end before. What is remembered of it as zero is zero as long
 * as its source is lost; one that has changed is not believed anything.
 */
import {
  type BlockNode,
  type Extent,
  ReadOnlyNode,
  validateOpen,
  within,
  type ZeroRanges,
  zeroUntil,
} from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { CheckResult, FormatDetails, FormatName, FormatNode } from "../formats/index.ts";
import type { Chain, ChainLayer } from "./spec.ts";

/** How a backing image is opened that may be away. */
export interface LatePolicy {
  /**
   * Asks for an image that is away.
   *
   * @param door each read of it tries to open the image
   * @param error why it is away
   * @returns what the door is asked through from now on
   */
  readonly watch: (door: BlockNode, error: StreamdiskError) => BlockNode;
  /** How long the first attempt is waited for, in milliseconds. It goes on meanwhile. */
  readonly patienceMs: number;
}

/** An image that may be away. */
export interface Awaited {
  /** Tries once. */
  readonly open: () => Promise<Chain>;
  /** As messages show it. */
  readonly name: string;
  /** What the image above says of it. */
  readonly format: FormatName | undefined;
  /** What is known to be zero of it. */
  readonly zeroes: ZeroRanges;
}

const DOOR_BYTES = 512;
/** No image is longer. */
const ENDLESS = Number.MAX_SAFE_INTEGER;

/** Opens an image if its source is there and what it was, and otherwise later. */
export async function openOrLate(awaited: Awaited, { watch, patienceMs }: LatePolicy): Promise<Chain | LateImage> {
  const { name } = awaited;
  const attempt = awaited.open();
  try {
    const chain = await within(attempt, patienceMs);
    if (chain !== undefined) return chain;
    const message = `'${name}' has not answered for ${patienceMs} ms`;
    return new LateImage(awaited, watch, new StreamdiskError("source-lost", message, { node: name }), attempt);
  } catch (error) {
    if (!(error instanceof StreamdiskError) || (error.code !== "source-lost" && error.code !== "changed")) throw error;
    return new LateImage(awaited, watch, error);
  }
}

export class LateImage extends ReadOnlyNode implements FormatNode {
  readonly name: string;
  readonly clusterSize = undefined;
  readonly warnings: readonly string[] = [];
  readonly #format: FormatName | undefined;
  readonly #open: () => Promise<Chain>;
  readonly #zeroes: ZeroRanges;
  readonly #gate: BlockNode;
  #attempt: Promise<void> | undefined;
  #chain: Chain | undefined;
  #closing: Promise<void> | undefined;

  /**
   * @param error why it is away
   * @param attempt one that is under way
   */
  constructor(
    { name, format, open, zeroes }: Awaited,
    watch: LatePolicy["watch"],
    error: StreamdiskError,
    attempt?: Promise<Chain>,
  ) {
    super();
    this.name = name;
    this.#format = format;
    this.#open = open;
    this.#zeroes = zeroes;
    if (attempt !== undefined) this.#await(attempt);
    this.#gate = watch(new Door(name, () => this.#tryOnce()), error);
  }

  get #image(): FormatNode | undefined {
    return this.#chain?.node;
  }

  /** Whether it is open: its source was there at some time. */
  get isThere(): boolean {
    return this.#chain !== undefined;
  }

  /** What lies below it, as far as is known. */
  get deeper(): readonly ChainLayer[] {
    return this.#chain?.layers.slice(1) ?? [];
  }

  /** What it is, or is said to be; "raw" when nobody knows yet. */
  get format(): FormatName {
    return this.#image?.format ?? this.#format ?? "raw";
  }

  get length(): number {
    return this.#image?.length ?? ENDLESS;
  }

  get backing(): BlockNode | undefined {
    return this.#image?.backing;
  }

  get file(): BlockNode {
    return this.#image?.file ?? this.#gate;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const image = this.#image ?? (await this.#demandOr("read", offset));
    if (image === undefined) return this.#readZeroes(offset, target, signal);
    const inside = Math.max(0, Math.min(target.length, image.length - offset));
    target.fill(0, inside);
    if (inside > 0) await image.read(offset, target.subarray(0, inside), signal);
  }

  readNow(offset: number, target: Uint8Array): boolean {
    return this.#image?.readNow?.(offset, target) ?? false;
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    const image = this.#image ?? (await this.#demandOr("map", offset));
    if (image === undefined) {
      const end = Math.min(zeroUntil(this.#zeroes, offset), offset + length);
      return [{ offset, length: end - offset, kind: "zero", depth: 0 }];
    }
    const inside = Math.min(length, image.length - offset);
    if (inside > 0) return image.extents(offset, inside);
    return length === 0 ? [] : [{ offset, length, kind: "zero", depth: 0 }];
  }

  /** The image; undefined when its source is lost, and known to be zero at `offset`. */
  async #demandOr(operation: string, offset: number): Promise<FormatNode | undefined> {
    try {
      return await this.#demand(operation);
    } catch (error) {
      const isLost = error instanceof StreamdiskError && error.code === "source-lost";
      if (isLost && zeroUntil(this.#zeroes, offset) > offset) return undefined;
      throw error;
    }
  }

  /** What is not known to be zero of the rest is asked for. */
  async #readZeroes(offset: number, target: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const length = Math.min(zeroUntil(this.#zeroes, offset) - offset, target.length);
    target.fill(0, 0, length);
    if (length < target.length) await this.read(offset + length, target.subarray(length), signal);
  }

  /** The image; fails as long as its source is lost. */
  async #demand(operation: string): Promise<FormatNode> {
    validateOpen(this, operation, this.#closing !== undefined);
    await this.#gate.read(0, new Uint8Array(1));
    if (this.#image === undefined) throw new Error(`The gate of '${this.name}' was passed, and nothing is behind it`);
    return this.#image;
  }

  async #tryOnce(): Promise<void> {
    if (this.#image !== undefined) return;
    if (this.#attempt === undefined) this.#await(this.#open());
    await this.#attempt;
  }

  /** One attempt is under way at a time: one that hangs may hang for long. */
  #await(opening: Promise<Chain>): void {
    const attempt = opening.then(async (chain) => {
      this.#chain = chain;
      // Nobody was left to close it.
      if (this.#closing !== undefined) await chain.close();
    });
    this.#attempt = attempt;
    const end = (): void => {
      this.#attempt = undefined;
    };
    attempt.then(end, end);
  }

  describe(): FormatDetails {
    return this.#image?.describe() ?? { "dirty-flag": false };
  }

  async check(): Promise<CheckResult> {
    const message = `Could not check '${this.name}': it is the backing file of a disk that is served`;
    throw new StreamdiskError("unsupported", message, { node: this.name, operation: "check" });
  }

  /** Does not wait for an attempt, which may hang: what it opens is closed then. */
  close(): Promise<void> {
    this.#closing ??= Promise.all([this.#gate.close(), this.#chain?.close()]).then(() => {});
    return this.#closing;
  }
}

/** Reads as zeroes, once the image is open. */
class Door extends ReadOnlyNode {
  readonly name: string;
  readonly length = DOOR_BYTES;
  readonly backing = undefined;
  readonly #knock: () => Promise<void>;

  constructor(name: string, knock: () => Promise<void>) {
    super();
    this.name = name;
    this.#knock = knock;
  }

  async read(_offset: number, target: Uint8Array): Promise<void> {
    await this.#knock();
    target.fill(0);
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    await this.#knock();
    return [{ offset, length, kind: "zero", depth: 0 }];
  }

  async close(): Promise<void> {}
}
