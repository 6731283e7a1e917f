/**
 * Launches a machine apart from this process: in a session of its own, with a shell that waits for it and writes down how it ended, and
 * with nothing of this process open. It lives on over the end of whoever launched it, is found again (`findMachine`), and is spoken
 * to by its monitor.
 *
 * Its directory and all that is made there is for its owner alone.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { systemClock } from "../../block/index.ts";
import { StreamdiskError, wrapSystemError } from "../../errors/index.ts";
import { QmpClient } from "../qmp/client.ts";
import { machineEndReason, readMachineEnd } from "./machine-end.ts";
import type { MachinePaths } from "./machine-paths.ts";
import { findMachine, killMachine, type MachineProcess } from "./machine-process.ts";
import { type PreparedMachine, qemuArguments } from "./qemu-arguments.ts";

/**
 * $0 is where the end is written, $1 where QEMU's errors go, $2 where the shell's pid is written. A trap, unlike an ignored signal, is not handed down: whoever ends all of a session
 * ends QEMU, and the shell lives to tell.
 */
const SHELL = `umask 077; trap : HUP INT TERM; log=$1; echo $$ >"$2"; shift 2; "$@" >>"$log" 2>&1; echo $? >"$0.new"; mv "$0.new" "$0"`;

/** How long QEMU may take to come up. */
const UP_MS = 60_000;
const POLL_MS = 50;
/** What of this process's surroundings QEMU is to see. */
const ENVIRONMENT = ["PATH", "HOME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR"];

export interface LaunchOptions {
  /** A client of its monitor, which has one at a time. @default one for the while */
  readonly qmp?: QmpClient;
  /** Gives up waiting; the machine is left as it is. */
  readonly signal?: AbortSignal;
}

/**
 * @returns the process, when QEMU answers: all that the machine needs is open then, and its guest runs
 * @throws {StreamdiskError} `in-use` when it runs already or an image is locked; `refused` with what QEMU says; `io` when it does not answer
 */
export async function launchMachine(
  machine: PreparedMachine,
  paths: MachinePaths,
  { qmp, signal }: LaunchOptions = {},
): Promise<MachineProcess> {
  const { name } = machine;
  const there = await findMachine(paths);
  if (there !== undefined) {
    throw new StreamdiskError("in-use", `The machine '${name}' runs already (pid ${there.pid})`, { node: name });
  }
  await makeReady(paths);
  const shell = ["-c", SHELL, paths.exit, paths.log, paths.shell, machine.emulator, ...qemuArguments(machine, paths)];
  const child = await startShell(shell, machine.emulator, paths);
  // Not before it is there: nobody would wait for that of one that could not be started.
  const ended = once(child, "exit").then(() => {});
  child.unref();
  if (qmp !== undefined) return whenUp(name, paths, { qmp, ended, signal });
  using own = new QmpClient(paths.qmp, { timeoutMs: UP_MS });
  return await whenUp(name, paths, { qmp: own, ended, signal });
}

async function startShell(
  args: readonly string[],
  emulator: string,
  { directory }: MachinePaths,
): Promise<ChildProcess> {
  const env = Object.fromEntries(
    ENVIRONMENT.flatMap((key) => (process.env[key] === undefined ? [] : [[key, process.env[key]]])),
  );
  try {
    const child = spawn("/bin/sh", args, { cwd: directory, detached: true, stdio: "ignore", env });
    await once(child, "spawn");
    return child;
  } catch (error) {
    throw wrapSystemError(error, emulator, "run");
  }
}

async function makeReady(paths: MachinePaths): Promise<void> {
  try {
    await mkdir(paths.directory, { recursive: true, mode: 0o700 });
    for (const left of [paths.qmp, paths.console, paths.pidFile, paths.shell, paths.exit])
      await rm(left, { force: true });
    await writeFile(paths.log, "", { mode: 0o600 });
  } catch (error) {
    throw wrapSystemError(error, paths.directory, "make the directory of a machine");
  }
}

async function whenUp(
  name: string,
  paths: MachinePaths,
  {
    qmp,
    ended,
    signal,
  }: { readonly qmp: QmpClient; readonly ended: Promise<void>; readonly signal: AbortSignal | undefined },
): Promise<MachineProcess> {
  let isOver = false;
  const over = ended.then(() => {
    isOver = true;
  });
  for (const until = systemClock.now() + UP_MS; !isOver && systemClock.now() < until; ) {
    const answered = qmp.execute("query-status", {}, { signal }).then(
      () => true,
      () => false,
    );
    if (await Promise.race([answered, over.then(() => false)])) {
      const found = await findMachine(paths);
      if (found !== undefined) return found;
    }
    signal?.throwIfAborted();
    await Promise.race([systemClock.sleep(POLL_MS, signal), over]);
  }
  if (isOver) throw await failure(name, paths);
  const late = await findMachine(paths);
  if (late !== undefined) await killMachine(late);
  const message = `QEMU of '${name}' did not come up within ${UP_MS / 1000} s, and was ended. Its log is '${paths.log}'`;
  throw new StreamdiskError("io", message, { node: name });
}

async function failure(name: string, paths: MachinePaths): Promise<StreamdiskError> {
  const end = await readMachineEnd(paths);
  const locked = /Is another process using the image/.test(end.lastLine ?? "");
  const message = `QEMU of '${name}' ended at once (${machineEndReason(end).reason}). Its log is '${paths.log}'`;
  return new StreamdiskError(locked ? "in-use" : "refused", message, { node: name });
}
