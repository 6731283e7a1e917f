/**
 * Keeps what kill -9 and the loss of power may cost small while a stream runs: mappings are handed to the kernel
 * (checkpoint) every 2 seconds and before 64 MiB have gathered, and made durable (flush) every 5 seconds.
 *
 * One of the two is under way at a time. Copying goes on meanwhile, until as much has gathered as a kill may cost; then `full`
 * holds it up.
 */
import type { Clock } from "../block/index.ts";
import type { StreamTarget } from "./target.ts";

const CHECKPOINT_MS = 2000;
const FLUSH_MS = 5000;
const MOST_UNSAFE = 64 * 2 ** 20;
/** A checkpoint begins at half of it, so that the other half can be copied meanwhile. */
const CHECKPOINT_BYTES = MOST_UNSAFE / 2;

export class Durability {
  readonly #target: StreamTarget;
  readonly #clock: Clock;
  readonly #onDone: (error: unknown) => void;
  /** Bytes that no checkpoint covers, and those that the one under way does. */
  #gathered = 0;
  #covered = 0;
  #unflushed = false;
  #checkpointed: number;
  #flushed: number;
  #underway: Promise<void> | undefined;

  /** @param onDone called after each checkpoint or flush, with its error if it failed */
  constructor(target: StreamTarget, clock: Clock, onDone: (error: unknown) => void) {
    this.#target = target;
    this.#clock = clock;
    this.#onDone = onDone;
    this.#checkpointed = this.#flushed = clock.now();
  }

  /** Whether copying must wait until a checkpoint is done. */
  get full(): boolean {
    return this.#gathered + this.#covered >= MOST_UNSAFE;
  }

  /** Notes bytes that were populated. */
  populated(bytes: number): void {
    this.#gathered += bytes;
    this.#unflushed = true;
    if (this.#gathered >= CHECKPOINT_BYTES) this.#begin("checkpoint");
  }

  /** Begins what is due by the clock. */
  tick(): void {
    const now = this.#clock.now();
    if (this.#unflushed && now - this.#flushed >= FLUSH_MS) this.#begin("flush");
    else if (this.#gathered > 0 && now - this.#checkpointed >= CHECKPOINT_MS) this.#begin("checkpoint");
  }

  /** Makes everything durable, also when all populating has stopped. Throws what the target throws. */
  async settle(): Promise<void> {
    while (this.#underway !== undefined) await this.#underway;
    if (!this.#unflushed) return;
    await this.#run("flush");
  }

  #begin(what: "checkpoint" | "flush"): void {
    if (this.#underway !== undefined) return;
    this.#underway = this.#run(what).then(
      () => this.#end(undefined),
      (error: unknown) => this.#end(error),
    );
  }

  #end(error: unknown): void {
    this.#underway = undefined;
    if (error === undefined && this.#gathered >= CHECKPOINT_BYTES) this.#begin("checkpoint");
    this.#onDone(error);
  }

  async #run(what: "checkpoint" | "flush"): Promise<void> {
    this.#covered = this.#gathered;
    this.#gathered = 0;
    const flushes = what === "flush";
    const unflushed = this.#unflushed;
    if (flushes) this.#unflushed = false;
    try {
      await (flushes ? this.#target.flush() : this.#target.checkpoint());
      this.#checkpointed = this.#clock.now();
      if (flushes) this.#flushed = this.#checkpointed;
    } catch (error) {
      this.#gathered += this.#covered;
      this.#unflushed ||= unflushed;
      throw error;
    } finally {
      this.#covered = 0;
    }
  }
}
