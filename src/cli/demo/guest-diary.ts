/** What the demo's guest has told on its console, as `guest-program.ts` has it. */
import type { Deeds } from "./model.ts";

const KEPT_LINES = 20;

export class GuestDiary {
  #isUp = false;
  #isOff = false;
  #wrong: string | undefined;
  #deeds: Deeds = { beats: 0, looks: 0 };
  readonly #lines: string[] = [];

  /** It runs what was on its disk. */
  get isUp(): boolean {
    return this.#isUp;
  }

  /** It has done its last deed. */
  get isOff(): boolean {
    return this.#isOff;
  }

  /** What it has found that is not as it must be. */
  get wrong(): string | undefined {
    return this.#wrong;
  }

  get deeds(): Deeds {
    return this.#deeds;
  }

  /** The last lines. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  hear(line: string): void {
    const [, word = "", number] = /^(up|beat|look|wrong|off)(?: (\d+) at .*| .*)?$/.exec(line) ?? [];
    if (word === "") return;
    this.#lines.push(line);
    if (this.#lines.length > KEPT_LINES) this.#lines.shift();
    if (word === "up") this.#isUp = true;
    else if (word === "off") this.#isOff = true;
    else if (word === "wrong") this.#wrong ??= line;
    else if (word === "beat") this.#deeds = { ...this.#deeds, beats: Number(number) };
    else this.#deeds = { ...this.#deeds, looks: Number(number) };
  }
}
