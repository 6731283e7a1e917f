/**
 * Requests that are made once however often they are sent: who gives `Idempotency-Key` gets the answer that was given before, also
 * while the first is still being made. Kept in memory, so a new daemon begins anew; what was made before it is there, and says so.
 */
import { createHash } from "node:crypto";
import type { Clock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { type Answer, HttpRefusal } from "./http-problem.ts";

const KEEP_MS = 60 * 60 * 1000;
const MOST_KEYS = 1000;
/** Of all answers together; nearly all are of a few hundred bytes. */
const MOST_BYTES = 4 * 1024 * 1024;
const KEY = /^[\x21-\x7e]{1,200}$/;

interface Entry {
  readonly request: string;
  readonly since: number;
  readonly answer: Promise<Answer>;
  /** Of the answer; undefined while it is being made. */
  bytes?: number;
}

export class IdempotentAnswers {
  readonly #clock: Clock;
  /** In the order in which they came. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * The answer to a request: that of `act`, or the one that it gave before. An answer that may be another one later is not kept.
   *
   * @param request all that the answer depends on
   * @throws {StreamdiskError} `exists` when the key was another request's, `invalid-argument`; what `act` throws
   */
  answer(key: string, request: string, act: () => Promise<Answer>): Promise<Answer> {
    if (!KEY.test(key)) {
      throw new StreamdiskError("invalid-argument", "'Idempotency-Key' is to have 1 to 200 visible ASCII characters");
    }
    this.#forgetOld();
    const digest = createHash("sha256").update(request).digest("base64");
    const known = this.#entries.get(key);
    if (known !== undefined) {
      if (known.request === digest) return known.answer;
      throw new StreamdiskError("exists", `The idempotency key '${key}' belongs to another request: use a new one`);
    }
    this.#makeRoom();
    const entry: Entry = { request: digest, since: this.#clock.now(), answer: act() };
    this.#entries.set(key, entry);
    entry.answer.then(
      ({ retryable, body }) => {
        if (retryable) this.#forget(key, entry);
        else this.#weigh(entry, body?.length ?? 0);
      },
      () => this.#forget(key, entry),
    );
    return entry.answer;
  }

  #weigh(entry: Entry, bytes: number): void {
    entry.bytes = bytes;
    this.#bytes += bytes;
    for (const [key, { bytes: of }] of this.#entries) {
      if (this.#bytes <= MOST_BYTES) return;
      if (of !== undefined) this.#forget(key, this.#entries.get(key) as Entry);
    }
  }

  #forgetOld(): void {
    const before = this.#clock.now() - KEEP_MS;
    for (const [key, entry] of this.#entries) {
      if (entry.since > before) return;
      if (entry.bytes !== undefined) this.#forget(key, entry);
    }
  }

  #makeRoom(): void {
    if (this.#entries.size < MOST_KEYS) return;
    for (const [key, entry] of this.#entries) {
      if (entry.bytes === undefined) continue;
      this.#forget(key, entry);
      return;
    }
    throw new HttpRefusal(503, "in-use", `${MOST_KEYS} requests with idempotency keys are under way: try again later`);
  }

  #forget(key: string, entry: Entry): void {
    if (this.#entries.get(key) !== entry) return;
    this.#entries.delete(key);
    this.#bytes -= entry.bytes ?? 0;
  }
}
