/**
 * A file in memory that writes down all that is done to it. Every call takes effect some time after it was made, in the order
 * that a scheduler draws, so that calls overlap; what may be left after a crash in the midst of it is in the journal.
 */
import type { BlockNode, Extent } from "../../src/block/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { cutChange, type FileBytes, type FileChange } from "./file-bytes.ts";
import type { Journal } from "./journal.ts";
import type { Scheduler } from "./scheduler.ts";

/** Each call takes effect before the promise is handed back. */
const AT_ONCE: Pick<Scheduler, "defer"> = { defer: async (act) => act() };

export interface RecordingOptions {
  readonly bytes: FileBytes;
  /** Absent: nothing is written down. */
  readonly journal?: Journal;
  /** Absent: no delay. */
  readonly scheduler?: Pick<Scheduler, "defer">;
  readonly name?: string;
  /** Asked of every call, when it is to take effect. */
  readonly fails?: (operation: "read" | "write" | "flush") => Failure | undefined;
}

export interface Failure {
  readonly error: Error;
  /** How much of a change has happened nevertheless, from 0 to 1. */
  readonly done: number;
}

export class RecordingNode implements BlockNode {
  readonly name: string;
  readonly readOnly = false;
  readonly grows = true;
  readonly backing = undefined;
  readonly #bytes: FileBytes;
  readonly #journal: Journal | undefined;
  readonly #scheduler: Pick<Scheduler, "defer">;
  readonly #fails: NonNullable<RecordingOptions["fails"]>;
  #closed = false;

  /** @param options.bytes changed in place: closing leaves them to the next node */
  constructor(options: RecordingOptions) {
    const { bytes, journal, scheduler = AT_ONCE, name = "recorded", fails = () => undefined } = options;
    this.name = name;
    this.#bytes = bytes;
    this.#journal = journal;
    this.#scheduler = scheduler;
    this.#fails = fails;
  }

  get length(): number {
    return this.#bytes.length;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.#validate("read", offset, target.length, this.#bytes.length);
    await this.#scheduler.defer(() => {
      this.#mayFail("read");
      this.#bytes.read(offset, target);
    });
  }

  readNow(offset: number, target: Uint8Array): boolean {
    if (this.#closed || offset < 0 || offset + target.length > this.#bytes.length) return false;
    this.#bytes.read(offset, target);
    return true;
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#validate("write", offset, data.length);
    // The caller's bytes are its own again only when the write has resolved: taking them late would hide who reuses them early.
    await this.#change({ kind: "write", offset, bytes: new Uint8Array(data) });
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#validate("write zeroes", offset, length);
    await this.#change({ kind: "zero", offset, length, grows: true });
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#validate("discard", offset, length);
    await this.#change({ kind: "zero", offset, length, grows: false });
  }

  async resize(length: number): Promise<void> {
    this.#validate("resize", 0, length);
    await this.#change({ kind: "resize", length });
  }

  async flush(): Promise<void> {
    this.#validate("flush", 0, 0);
    const id = this.#journal?.newId() ?? 0;
    this.#journal?.add({ type: "flush-begin", id });
    await this.#scheduler.defer(() => {
      this.#mayFail("flush");
      this.#journal?.add({ type: "flush-end", id });
    }, true);
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#validate("extents", offset, length, this.#bytes.length);
    return [{ offset, length, kind: "data", depth: 0 }];
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #change(change: FileChange): Promise<void> {
    const id = this.#issue(change);
    await this.#scheduler.defer(() => {
      const failure = this.#fails("write");
      if (failure === undefined) this.#complete(id, change);
      else {
        this.#journal?.add({ type: "fail", id });
        const part = cutChange(change, failure.done);
        if (part !== undefined) this.#complete(this.#issue(part), part);
        throw failure.error;
      }
    });
  }

  #issue(change: FileChange): number {
    const id = this.#journal?.newId() ?? 0;
    this.#journal?.add({ type: "issue", id, change });
    return id;
  }

  #complete(id: number, change: FileChange): void {
    this.#bytes.apply(change);
    this.#journal?.add({ type: "complete", id });
  }

  #mayFail(operation: "read" | "flush"): void {
    const failure = this.#fails(operation);
    if (failure !== undefined) throw failure.error;
  }

  #validate(operation: string, offset: number, length: number, end = Number.MAX_SAFE_INTEGER): void {
    if (this.#closed) throw new StreamdiskError("shutdown", `'${this.name}' is closed`, { node: this.name, operation });
    if (Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= end) return;
    throw new StreamdiskError("invalid-argument", `${operation} of ${length} bytes at ${offset} of '${this.name}'`);
  }
}
