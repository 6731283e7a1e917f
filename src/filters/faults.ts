/**
 * A node that goes wrong on purpose, for tests: requests fail, come late or never, by where they go, by how many came before and by
 * chance. What it does depends on the requests and the numbers it is given alone, so the same run can be had again.
 *
 * A fault strikes before the request is carried out: a request that fails has had no effect, one that is frozen has none
 * before it is let go.
 */
import { type BlockNode, type Clock, type Extent, systemClock, whileWanted } from "../block/index.ts";
import { type ErrorCode, StreamdiskError } from "../errors/index.ts";

export type FaultOperation = "read" | "write" | "write zeroes" | "discard" | "flush" | "map" | "resize";

/** What goes wrong, and when. */
export interface Fault {
  /** @default every one */
  readonly operations?: readonly FaultOperation[];
  /** Only requests that touch these bytes. @default every one */
  readonly range?: { readonly offset: number; readonly length: number };
  /** So many of those requests pass first. @default 0 */
  readonly after?: number;
  /** So many of them meet the fault then. @default every one */
  readonly times?: number;
  /** The chance that one meets it: there must be random numbers then. @default 1 */
  readonly chance?: number;
  /** An error, a delay in milliseconds, or no answer before `thaw`. */
  readonly does: ErrorCode | { readonly delayMs: number } | "freeze";
}

export interface FaultsOptions {
  /** Numbers in [0, 1), for faults that come by chance. */
  readonly random?: () => number;
  readonly clock?: Clock;
}

/** A request, as the list of them has it. */
export interface FaultsRequest {
  readonly operation: FaultOperation;
  readonly offset: number;
  readonly length: number;
}

export class Faults implements BlockNode {
  /** All that was asked for so far, in order. */
  readonly requests: FaultsRequest[] = [];
  readonly #node: BlockNode;
  readonly #random: (() => number) | undefined;
  readonly #clock: Clock;
  readonly #faults = new Map<Fault, { seen: number }>();
  readonly #frozen = new Set<(closed: boolean) => void>();
  #underWay = 0;
  #most = 0;

  constructor(node: BlockNode, { random, clock = systemClock }: FaultsOptions = {}) {
    this.#node = node;
    this.#random = random;
    this.#clock = clock;
  }

  /**
   * Adds a fault; of several that fit a request the first added strikes.
   *
   * @returns how to lift it
   * @throws {StreamdiskError} `invalid-argument` for one by chance where there are no random numbers
   */
  add(fault: Fault): () => void {
    if (fault.chance !== undefined && this.#random === undefined) {
      throw new StreamdiskError("invalid-argument", "Faults by chance need random numbers", { node: this.name });
    }
    this.#faults.set(fault, { seen: 0 });
    return () => this.#faults.delete(fault);
  }

  /** Requests that wait for `thaw`. */
  get frozen(): number {
    return this.#frozen.size;
  }

  /** The most requests that were under way at a time. */
  get mostUnderWay(): number {
    return this.#most;
  }

  /** Lets go of all that are frozen. */
  thaw(): void {
    for (const go of [...this.#frozen]) go(false);
  }

  get name(): string {
    return this.#node.name;
  }

  get length(): number {
    return this.#node.length;
  }

  get readOnly(): boolean {
    return this.#node.readOnly;
  }

  get grows(): boolean {
    return this.#node.grows;
  }

  get backing(): BlockNode | undefined {
    return this.#node.backing;
  }

  /** What is not waited for any more may end some day: so it has a buffer of its own. */
  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const bytes = new Uint8Array(target.length);
    const reading = this.#meet("read", offset, target.length, () => this.#node.read(offset, bytes, signal));
    await whileWanted(reading, signal);
    target.set(bytes);
  }

  write(offset: number, data: Uint8Array): Promise<void> {
    return this.#meet("write", offset, data.length, () => this.#node.write(offset, data));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#meet("write zeroes", offset, length, () => this.#node.writeZeroes(offset, length));
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#meet("discard", offset, length, () => this.#node.discard(offset, length));
  }

  flush(): Promise<void> {
    return this.#meet("flush", 0, 0, () => this.#node.flush());
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#meet("map", offset, length, () => this.#node.extents(offset, length));
  }

  resize(length: number): Promise<void> {
    return this.#meet("resize", 0, length, () => this.#node.resize(length));
  }

  async close(): Promise<void> {
    for (const go of [...this.#frozen]) go(true);
    await this.#node.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #meet<T>(operation: FaultOperation, offset: number, length: number, act: () => Promise<T>): Promise<T> {
    const request = { operation, offset, length };
    this.requests.push(request);
    this.#most = Math.max(this.#most, ++this.#underWay);
    try {
      await this.#strike(request);
      return await act();
    } finally {
      this.#underWay--;
    }
  }

  async #strike(request: FaultsRequest): Promise<void> {
    const does = this.#faultFor(request)?.does;
    if (does === undefined) return;
    if (does === "freeze") await this.#freeze(request);
    else if (typeof does === "object") await this.#clock.sleep(does.delayMs);
    else throw this.#error(does, request, "A fault was met");
  }

  #faultFor(request: FaultsRequest): Fault | undefined {
    for (const [fault, counted] of this.#faults) {
      if (!fits(fault, request)) continue;
      const { after = 0, times = Number.POSITIVE_INFINITY, chance = 1 } = fault;
      const index = counted.seen++;
      if (index >= after && index < after + times && (chance >= 1 || this.#random!() < chance)) return fault;
    }
    return undefined;
  }

  async #freeze(request: FaultsRequest): Promise<void> {
    const closed = await new Promise<boolean>((resolve) => {
      const go = (atClose: boolean): void => {
        this.#frozen.delete(go);
        resolve(atClose);
      };
      this.#frozen.add(go);
    });
    if (closed) throw this.#error("shutdown", request, "It was closed");
  }

  #error(code: ErrorCode, { operation, offset, length }: FaultsRequest, what: string): StreamdiskError {
    const message = `${what}: ${operation} of ${length} bytes at ${offset} of '${this.name}'`;
    return new StreamdiskError(code, message, { node: this.name, operation, offset, length });
  }
}

function fits({ operations, range }: Fault, { operation, offset, length }: FaultsRequest): boolean {
  if (operations !== undefined && !operations.includes(operation)) return false;
  return range === undefined || (offset < range.offset + range.length && range.offset < offset + length);
}
