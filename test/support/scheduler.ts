/**
 * Time that stands still until the test moves it: what is deferred is done one by one, in an order drawn at random. So calls
 * overlap in every way, and the same numbers give the same run again.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { below, type Random } from "./draw.ts";

/** So many turns without anything to do, and whoever waits waits for ever. */
const MOST_IDLE_TURNS = 20_000;

interface Deferred {
  readonly act: () => void;
  /** Taken only half as often as others, so that more happens meanwhile. */
  readonly slow: boolean;
}

export class Scheduler {
  readonly #random: Random;
  readonly #deferred: Deferred[] = [];
  #idleTurns = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  get idle(): boolean {
    return this.#deferred.length === 0;
  }

  /** Resolves with what `act` returns, some time later. */
  defer<T>(act: () => T, slow = false): Promise<T> {
    return new Promise((resolve, reject) => {
      const run = () => {
        try {
          resolve(act());
        } catch (error) {
          reject(error);
        }
      };
      this.#deferred.push({ act: run, slow });
    });
  }

  /** Does one deferred act, if there is any, and lets what follows from it happen. */
  async step(): Promise<void> {
    const deferred = this.#take();
    this.#idleTurns = deferred === undefined ? this.#idleTurns + 1 : 0;
    if (this.#idleTurns > MOST_IDLE_TURNS) throw new Error("Nothing is under way, and somebody waits: a hang");
    deferred?.act();
    await nextTurn();
  }

  #take(): Deferred | undefined {
    const count = this.#deferred.length;
    if (count === 0) return undefined;
    let index = below(this.#random, count);
    if (this.#deferred[index]?.slow) index = below(this.#random, count);
    return this.#deferred.splice(index, 1)[0];
  }

  /** Moves time until `promise` is settled. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const settle = () => {
      settled = true;
    };
    promise.then(settle, settle);
    await nextTurn();
    while (!settled) await this.step();
    return promise;
  }
}
