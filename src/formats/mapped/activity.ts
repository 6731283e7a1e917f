/**
 * Which requests are under way, so that what they may still touch is not reused.
 *
 * Each request takes a ticket when it begins. `whenIdleSince` runs a callback once every request that has a ticket now has
 * ended; later requests do not matter, since they can only see the mapping as it is now.
 */
export class Activity {
  #next = 0;
  /** Tickets in order of issue: a Set keeps the order of insertion, so the first is the oldest. */
  readonly #active = new Set<number>();
  #waiting: { readonly before: number; readonly run: () => void }[] = [];

  begin(): number {
    const ticket = this.#next++;
    this.#active.add(ticket);
    return ticket;
  }

  end(ticket: number): void {
    this.#active.delete(ticket);
    if (this.#waiting.length > 0) this.#wake();
  }

  /** Whether a callback has not been run yet. */
  get isAwaited(): boolean {
    return this.#waiting.length > 0;
  }

  whenIdleSince(run: () => void): void {
    this.#waiting.push({ before: this.#next, run });
    this.#wake();
  }

  #wake(): void {
    const oldest = this.#active.values().next();
    const limit = oldest.done ? this.#next : oldest.value;
    const ready = this.#waiting.filter((w) => w.before <= limit);
    if (ready.length === 0) return;
    this.#waiting = this.#waiting.filter((w) => w.before > limit);
    for (const { run } of ready) run();
  }
}
