/** The log of acknowledged mappings in memory, and a journal of what was done to it. */

import { StreamdiskError } from "../../src/errors/index.ts";
import type { MappingLog, MappingRecord } from "../../src/formats/index.ts";

export type LogChange =
  | { readonly kind: "append"; readonly record: MappingRecord }
  | { readonly kind: "rotate" | "drop-old" | "remove" };

/** The records of both generations. */
export class LogRecords {
  #old: MappingRecord[];
  #current: MappingRecord[] = [];

  constructor(records: readonly MappingRecord[] = []) {
    this.#old = [...records];
  }

  get all(): readonly MappingRecord[] {
    return [...this.#old, ...this.#current];
  }

  apply(change: LogChange): void {
    if (change.kind === "append") this.#current.push(change.record);
    else if (change.kind === "rotate") {
      this.#old.push(...this.#current);
      this.#current = [];
    } else {
      this.#old = [];
      if (change.kind === "remove") this.#current = [];
    }
  }
}

export class MemoryLog implements MappingLog {
  readonly #records: LogRecords;
  readonly #onChange: (change: LogChange) => void;
  /** Appending fails while this is true. */
  full = false;

  /** @param records what an earlier process left */
  constructor(records: readonly MappingRecord[] = [], onChange: (change: LogChange) => void = () => {}) {
    this.#records = new LogRecords(records);
    this.#onChange = onChange;
  }

  get records(): readonly MappingRecord[] {
    return this.#records.all;
  }

  replay(): readonly MappingRecord[] {
    return this.#records.all;
  }

  append(cluster: number, entry: Uint8Array): void {
    if (this.full) throw new StreamdiskError("no-space", "The log is full");
    this.#change({ kind: "append", record: { cluster, entry: new Uint8Array(entry) } });
  }

  rotate(): void {
    this.#change({ kind: "rotate" });
  }

  dropOld(): void {
    this.#change({ kind: "drop-old" });
  }

  remove(): void {
    this.#change({ kind: "remove" });
  }

  #change(change: LogChange): void {
    this.#records.apply(change);
    this.#onChange(change);
  }
}
