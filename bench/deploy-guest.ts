/** The guest of the deployments that are measured: what it boots, and what is on its console. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type BootFiles, makeBootFiles } from "../test/support/guest/initramfs.ts";

const LOOK_MS = 10;
/** Reads of which one line tells (deploy-guest.sh). */
const READS = 2048;

export const MEMORY_MIB = 192;

export function guestFiles(directory: string): BootFiles {
  return makeBootFiles(directory, join(import.meta.dirname, "deploy-guest.sh"));
}

/** What a guest has said on its console, which QEMU keeps in a file. */
export class GuestConsole {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Resolves when the guest has read all that it needs. @throws {Error} with its console, when it does not come to that */
  async first(withinMs: number): Promise<void> {
    for (const start = performance.now(); !this.#text.includes("@first"); await sleep(LOOK_MS)) {
      if (performance.now() - start > withinMs) throw new Error(`The guest is not there yet: ${this.#text}`);
    }
  }

  /** Lines about reads so far. */
  get rounds(): number {
    return this.#rounds().length;
  }

  /** Milliseconds that a read has taken, in each of the rounds from one on. @throws {Error} when a read has failed */
  reads(from: number, to?: number): number[] {
    if (this.#text.includes("@failed")) throw new Error(`A read of the guest's has failed: ${this.#text}`);
    return this.#rounds()
      .slice(from, to)
      .map(([, begun, ended]) => ((Number(ended) - Number(begun)) * 1000) / READS);
  }

  #rounds(): RegExpExecArray[] {
    return [...this.#text.matchAll(/@reads (\S+) (\S+)\r?\n/g)];
  }

  get #text(): string {
    return existsSync(this.#path) ? readFileSync(this.#path, "latin1") : "";
  }
}
