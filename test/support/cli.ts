/** The command line as its users meet it: a process, its output, its exit code. And parts for looking at what it did. */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import type { TestContext } from "node:test";

/** `node MAIN ARGS...` is the command. */
export const MAIN: string = join(import.meta.dirname, "../../src/cli/main.ts");

export interface CliEnd {
  readonly exit: number | null;
  readonly killedBy: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Another build of the program. @default this source */
  readonly program?: string;
  /** A command in front: `["unshare", "-m"]`. */
  readonly under?: readonly string[];
  /** Called with each line of standard output, as it comes. */
  readonly onLine?: (line: string) => void;
}

export interface RunningCli {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  readonly ended: Promise<CliEnd>;
}

/** Starts `streamdisk ARGS...`. */
export function startCli(args: readonly string[], options: CliOptions = {}): RunningCli {
  const { cwd, env, program = MAIN, under = [], onLine } = options;
  const [command = process.execPath, ...rest] = [...under, process.execPath, program, ...args];
  const child = spawn(command, rest, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise<CliEnd>((resolve, reject) => {
    let stdout = "";
    let stderr = "";
    let lineFrom = 0;
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      for (let end = stdout.indexOf("\n", lineFrom); end >= 0; end = stdout.indexOf("\n", lineFrom)) {
        onLine?.(stdout.slice(lineFrom, end));
        lineFrom = end + 1;
      }
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", reject);
    child.once("close", (exit, killedBy) => resolve({ exit, killedBy, stdout, stderr }));
  });
  return { child, ended };
}

/** Runs `streamdisk ARGS...` to its end. */
export async function cli(args: readonly string[], options: CliOptions = {}): Promise<CliEnd> {
  return await startCli(args, options).ended;
}

/** The same, which must succeed. */
export async function cliOk(args: readonly string[], options: CliOptions = {}): Promise<CliEnd> {
  const end = await cli(args, options);
  assert.equal(end.exit, 0, `streamdisk ${args.join(" ")}: ${end.stderr}`);
  return end;
}

/**
 * Asserts a failure as a user should meet one: this exit code, one line on standard error that matches, no stack trace,
 * nothing on standard output.
 */
export function assertFails(end: CliEnd, exit: number, ...words: readonly (RegExp | string)[]): void {
  const said = `exit ${end.exit ?? end.killedBy}, stdout '${end.stdout}', stderr '${end.stderr}'`;
  assert.equal(end.exit, exit, said);
  assert.match(end.stderr, /^streamdisk: \S[^\n]*\n$/, said);
  assert.doesNotMatch(end.stderr, /^\s+at |\.ts:\d|Internal error/, said);
  for (const word of words) {
    if (typeof word === "string") assert(end.stderr.includes(word), `${said} has '${word}'`);
    else assert.match(end.stderr, word, said);
  }
  assert.equal(end.stdout, "", said);
}

/** A directory that is gone after the test. */
export function temporaryDirectory(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "streamdisk-test-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Runs a peer, which must succeed, and returns its standard output. */
export function peer(command: string, ...args: readonly string[]): string {
  const end = spawnSync(command, args, { encoding: "utf8" });
  assert.equal(end.status, 0, `${command} ${args.join(" ")}: ${end.error ?? end.stderr}`);
  return end.stdout;
}

/** SHA-256 of each file, to see that none was changed. */
export function hashes(...paths: readonly string[]): Record<string, string> {
  return Object.fromEntries(paths.map((path) => [path, createHash("sha256").update(readFileSync(path)).digest("hex")]));
}

/** Bytes that compress badly and differ everywhere, the same for the same seed. */
export function noise(length: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed | 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return Buffer.from(words.buffer, 0, length);
}

const MIB = 1024 ** 2;

/**
 * Makes `base.raw` (32 MiB: noise in each even MiB, holes between), over it `vm.FORMAT` with some writes and zeroes of a
 * guest, and `expected.raw`, which is what a reader of the overlay sees. QEMU makes the images.
 */
export function makeOverlay(directory: string, format = "qcow2", mebibytes = 32): Overlay {
  const base = join(directory, "base.raw");
  const image = join(directory, `vm.${format}`);
  const expected = join(directory, "expected.raw");
  const file = openSync(base, "w");
  ftruncateSync(file, mebibytes * MIB);
  for (let at = 0; at < mebibytes; at += 2) writeSync(file, noise(MIB, at + 1), 0, MIB, at * MIB);
  closeSync(file);
  peer("qemu-img", "create", "-q", "-f", format, "-b", "base.raw", "-F", "raw", image);
  const writes = ["write -P 17 1536k 1m", "write -P 18 7000k 512", "write -z 4m 64k", "write -P 19 20m 1m"];
  peer("qemu-io", "-f", format, ...writes.flatMap((write) => ["-c", write]), image);
  peer("qemu-img", "convert", "-f", format, "-O", "raw", image, expected);
  return { directory, base, image, expected, format };
}

export interface Overlay {
  readonly directory: string;
  readonly base: string;
  readonly image: string;
  readonly expected: string;
  readonly format: string;
}

/** Asserts by qemu-img that an image stands alone, is clean, and reads as it must. */
export function assertComplete({ base, image, expected, format }: Overlay): void {
  rmSync(base, { force: true });
  const info = JSON.parse(peer("qemu-img", "info", "-f", format, "--output=json", image)) as Record<string, unknown>;
  assert.equal(info["backing-filename"], undefined);
  peer("qemu-img", "check", "-q", "-f", format, image);
  peer("qemu-img", "compare", "-q", "-f", format, "-F", "raw", image, expected);
}
