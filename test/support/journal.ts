/**
 * All that happens to a file and to the log of its mappings, in order. A place in the journal is a moment: what could be found after
 * a crash at that moment follows from the events before it (crash-state.ts).
 *
 * A change of the file is issued, and complete some time later; in between it may have happened or not. A flush covers what was
 * complete before it began, once it has ended. `mark` makes a moment that other records can refer to.
 */
import type { FileChange } from "./file-bytes.ts";
import type { LogChange } from "./memory-log.ts";

export type JournalEvent =
  | { readonly type: "issue"; readonly id: number; readonly change: FileChange }
  | { readonly type: "complete"; readonly id: number }
  /** It ended without any effect. */
  | { readonly type: "fail"; readonly id: number }
  | { readonly type: "flush-begin"; readonly id: number }
  | { readonly type: "flush-end"; readonly id: number }
  | { readonly type: "log"; readonly change: LogChange }
  | { readonly type: "mark" };

export class Journal {
  readonly events: JournalEvent[] = [];
  #ids = 0;

  newId(): number {
    return this.#ids++;
  }

  add(event: JournalEvent): void {
    this.events.push(event);
  }

  /** A moment of its own. What was marked with `m` has happened at a moment `p` when m < p. */
  mark(): number {
    this.events.push({ type: "mark" });
    return this.events.length - 1;
  }
}
