/** A `virsh` on the PATH that does what the test says, right or wrong: a shell script, and a note of how it was called. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

/** What is noted after the arguments of a call. */
const END = "---";

export class FakeVirsh implements Disposable {
  readonly directory: string;
  readonly #path = process.env.PATH ?? "";

  /**
   * Is found first by whatever this process runs, until it is disposed of.
   *
   * @param cases what it does for each of virsh's commands, in the language of the shell; `$JSON` is the last argument
   */
  constructor(cases: Readonly<Record<string, string>>) {
    this.directory = mkdtempSync(join(tmpdir(), "streamdisk-virsh-"));
    const script = [
      "#!/bin/sh",
      // In one piece: others are run at the same time.
      `printf '%s\\0' "$@" '${END}' >>'${this.directory}/calls'`,
      `for JSON; do :; done`,
      'case "$3" in',
      ...Object.entries(cases).map(([command, act]) => `${command}) ${act};;`),
      "esac",
    ].join("\n");
    writeFileSync(join(this.directory, "virsh"), script);
    chmodSync(join(this.directory, "virsh"), 0o755);
    process.env.PATH = `${this.directory}${delimiter}${this.#path}`;
  }

  /** The arguments of each call so far. */
  get calls(): string[][] {
    const calls = readFileSync(join(this.directory, "calls"), "utf8").split(`\0${END}\0`);
    return calls.slice(0, -1).map((call) => call.split("\0"));
  }

  [Symbol.dispose](): void {
    process.env.PATH = this.#path;
    rmSync(this.directory, { recursive: true, force: true });
  }
}
