/** The command line as its users meet it: a process, its output, its exit code. And parts for looking at what it did. */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
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
  const { cwd, env, under = [], onLine } = options;
  const [command = process.execPath, ...rest] = [...under, process.execPath, MAIN, ...args];
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
