import type { DiskLive } from "./disk-spec.ts";

/** So many wait for a reader that is slow; then what it missed is left out, and said to be. */
const MOST_QUEUED = 8;

/** What goes on in a disk, on its way to one reader. */
export class LiveQueue {
  #queued: DiskLive[] = [];
  #wake: (() => void) | undefined;
  #ended = false;

  push(live: DiskLive): void {
    if (this.#queued.length < MOST_QUEUED) this.#queued.push(live);
    else this.#queued = [{ ...live, inexact: true }];
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *read(): AsyncGenerator<DiskLive, void, undefined> {
    for (;;) {
      const next = this.#queued.shift();
      if (next !== undefined) yield next;
      else if (this.#ended) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
