/**
 * The port to what happens, for those who look on: the past from the store, and what comes after it without a gap between them.
 */
import type { EventRecord } from "./records.ts";
import type { EventQuery } from "./store.ts";

export interface EventFeed {
  /** What is remembered, in the order of the ids. */
  events(query: EventQuery): Promise<EventRecord[]>;
  /** Id of the newest event there has been, pruned or not; 0 before the first. */
  newest(): Promise<number>;
  /**
   * Every event with an id greater than `after`, in order and each once: those that are remembered, then those that happen. What
   * was pruned is left out. Ends when the signal aborts, without an error. Keeps next to nothing for a reader that is slow.
   */
  follow(after: number, signal: AbortSignal): AsyncIterable<EventRecord>;
}
