/** The console of a guest (`init.sh`): takes a command a line, and answers with a line that begins with "@". */
import assert from "node:assert/strict";
import type { Readable, Writable } from "node:stream";

export class GuestConsole {
  readonly #input: Writable;
  /** Answers that nobody has asked for yet, and whoever waits for one. */
  readonly #answers: string[] = [];
  #waiting: { resolve(answer: string): void; reject(error: Error): void } | undefined;
  #log = "";
  #line = "";
  #hasEnded = false;

  constructor(output: Readable, input: Writable) {
    this.#input = input;
    input.on("error", () => {});
    output.setEncoding("latin1").on("data", (text: string) => this.#hear(text));
  }

  /** All that was on it. */
  get log(): string {
    return this.#log;
  }

  /** Waits until the guest takes commands. @returns the size of the disk that it sees, in bytes */
  async ready(): Promise<number> {
    const [, sectors = ""] = /^ready (\d+)$/.exec(await this.#answer()) ?? [];
    assert.notEqual(sectors, "", this.#log);
    return Number(sectors) * 512;
  }

  /** Gives a command, one at a time, and waits for the answer. */
  async does(command: string): Promise<string> {
    this.#input.write(`${command}\n`);
    return (await this.#answer()).trim();
  }

  /** The guest has ended: nobody answers any more. */
  end(): void {
    this.#hasEnded = true;
    this.#waiting?.reject(new Error(`the guest has ended: ${this.#log}`));
  }

  #hear(text: string): void {
    this.#log += text;
    this.#line += text;
    for (let end = this.#line.indexOf("\n"); end >= 0; end = this.#line.indexOf("\n")) {
      const line = this.#line.slice(0, end).trim();
      this.#line = this.#line.slice(end + 1);
      if (!line.startsWith("@")) continue;
      if (this.#waiting === undefined) this.#answers.push(line.slice(1));
      else this.#waiting.resolve(line.slice(1));
      this.#waiting = undefined;
    }
  }

  async #answer(): Promise<string> {
    const there = this.#answers.shift();
    if (there !== undefined) return there;
    if (this.#hasEnded) throw new Error(`the guest has ended: ${this.#log}`);
    return await new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }
}
