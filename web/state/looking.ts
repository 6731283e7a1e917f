/** Looks at something again and again, never twice at once: soon after it was told to, and otherwise now and then. */
import { StreamdiskError } from "../../src/errors/index.ts";

const BUSY_MS = 1000;
const CALM_MS = 15_000;
/** Many reasons to look come together. */
const SETTLE_MS = 120;

export interface LookingParts {
  readonly signal: AbortSignal;
  readonly look: (signal: AbortSignal) => Promise<void>;
  /** Whether it changes from one second to the next. */
  readonly isBusy: () => boolean;
}

export class Looking {
  readonly #parts: LookingParts;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #looks = false;

  constructor(parts: LookingParts) {
    this.#parts = parts;
    parts.signal.addEventListener("abort", () => clearTimeout(this.#timer));
  }

  soon(): void {
    this.#in(SETTLE_MS);
  }

  #in(ms: number): void {
    clearTimeout(this.#timer);
    if (!this.#parts.signal.aborted) this.#timer = setTimeout(() => void this.#look(), ms);
  }

  async #look(): Promise<void> {
    if (this.#looks) return this.#in(SETTLE_MS);
    this.#looks = true;
    const { look, signal, isBusy } = this.#parts;
    try {
      await look(signal);
    } catch (error) {
      // A line that is lost is told of by whoever follows it.
      if (!(error instanceof StreamdiskError)) throw error;
    } finally {
      this.#looks = false;
    }
    this.#in(isBusy() ? BUSY_MS : CALM_MS);
  }
}
