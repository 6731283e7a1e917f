/** A `virsh` on the PATH that does what the test says, right or wrong: a shell script, and a note of how it was called. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

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
      `printf '%s\\0' "$@" >>'${this.directory}/calls'; printf '\\n' >>'${this.directory}/calls'`,
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
    const lines = readFileSync(join(this.directory, "calls"), "utf8").split("\n");
    return lines.slice(0, -1).map((line) => line.split("\0").slice(0, -1));
  }

  [Symbol.dispose](): void {
    process.env.PATH = this.#path;
    rmSync(this.directory, { recursive: true, force: true });
  }
}
