/**
 * The process of a machine: found by what it is, whoever began it. QEMU writes its pid to a file; that pid is the machine's as long as the
 * process under it has this machine's monitor among its arguments. So a process that got the pid later, also after a reboot,
 * is never taken for it, and one that has ended and was not waited for has no arguments any more.
 */
import { readFile } from "node:fs/promises";
import { systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { MachinePaths } from "./machine-paths.ts";
import { monitorOption } from "./qemu-arguments.ts";

export interface MachineProcess {
  readonly pid: number;
  readonly paths: MachinePaths;
}

const POLL_MS = 100;
/** A process that does not go after this waits in the kernel, for a file system that does not answer. */
const KILLED_MS = 30_000;

/** The process of a machine that runs. */
export async function findMachine(paths: MachinePaths): Promise<MachineProcess | undefined> {
  const pid = await pidIn(paths.pidFile);
  if (pid === undefined) return undefined;
  const found = { pid, paths };
  return (await isRunning(found)) ? found : undefined;
}

export function isRunning({ pid, paths }: MachineProcess): Promise<boolean> {
  return hasArgument(pid, monitorOption(paths));
}

/** Whether the shell lives that waits for QEMU: before QEMU is up, while it runs, and until its end is written down. */
export async function isWaitedFor(paths: MachinePaths): Promise<boolean> {
  const pid = await pidIn(paths.shell);
  return pid !== undefined && (await hasArgument(pid, paths.exit));
}

async function pidIn(file: string): Promise<number | undefined> {
  const pid = Number(await readFile(file, "latin1").catch(() => ""));
  return Number.isSafeInteger(pid) && pid > 1 ? pid : undefined;
}

async function hasArgument(pid: number, argument: string): Promise<boolean> {
  const args = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return args.split("\0").includes(argument);
}

/**
 * Waits until a machine has ended.
 *
 * @param ms how long at most
 * @returns whether it has
 */
export async function machineEnds(process: MachineProcess, ms: number, signal?: AbortSignal): Promise<boolean> {
  for (const until = systemClock.now() + ms; await isRunning(process); ) {
    if (systemClock.now() >= until) return false;
    signal?.throwIfAborted();
    await systemClock.sleep(POLL_MS, signal);
  }
  return true;
}

/**
 * Has a QEMU look again that has said that it ends, and does not: QEMU 7.2, asked something at the moment when it is told to end, may wait for
 * itself in its last act (`monitor_cleanup`), until anything happens. To one that ends the signal says nothing new.
 */
export function wakeEnding({ pid }: MachineProcess): void {
  signalTo(pid, "SIGTERM");
}

function signalTo(pid: number, signal: "SIGTERM" | "SIGKILL"): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/**
 * Ends a machine as if its power was lost (SIGKILL), and waits for that. What its guest had flushed is there.
 *
 * @throws {StreamdiskError} `io` when it does not go
 */
export async function killMachine(machine: MachineProcess): Promise<void> {
  if (!(await isRunning(machine))) return;
  signalTo(machine.pid, "SIGKILL");
  if (await machineEnds(machine, KILLED_MS)) return;
  const message = `QEMU (pid ${machine.pid}) was killed and is still there after ${KILLED_MS / 1000} s: it waits in the kernel, for a file system that does not answer`;
  throw new StreamdiskError("io", message, { node: machine.paths.directory });
}
