/**
 * How a machine ended. A shell that waits for QEMU leaves the exit status behind, so that it is known also to a daemon that was away; QEMU
 * itself tells on its monitor why it ends, to whom listens then.
 */
import { open, readFile } from "node:fs/promises";
import { constants } from "node:os";
import { systemClock } from "../../block/index.ts";
import type { MachinePaths } from "./machine-paths.ts";

export interface MachineEnd {
  readonly exitCode?: number;
  readonly signal?: number;
  /** The last line of QEMU's errors. */
  readonly lastLine?: string;
}

const POLL_MS = 50;
/** How long after QEMU's end its status may take to be written down, on a machine that has much to do. */
const WRITTEN_MS = 5000;
const TAIL = 4096;
const LONGEST_LINE = 500;
/** Where a shell puts signals among exit statuses. */
const SIGNALS_FROM = 128;

/** Of a machine that runs no more. */
export async function readMachineEnd(paths: MachinePaths): Promise<MachineEnd> {
  const status = await readStatus(paths.exit);
  const lastLine = await lastLineOf(paths.log);
  return {
    ...(status !== undefined && (status > SIGNALS_FROM ? { signal: status - SIGNALS_FROM } : { exitCode: status })),
    ...(lastLine !== undefined && { lastLine }),
  };
}

/** @returns undefined when the shell that was to write it has died too */
async function readStatus(path: string): Promise<number | undefined> {
  for (const until = systemClock.now() + WRITTEN_MS; ; await systemClock.sleep(POLL_MS)) {
    const text = await readFile(path, "latin1").catch(() => "");
    if (/^\d{1,3}\n$/.test(text)) return Number(text);
    if (systemClock.now() >= until) return undefined;
  }
}

async function lastLineOf(path: string): Promise<string | undefined> {
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    const { buffer, bytesRead } = await file.read(Buffer.alloc(TAIL), 0, TAIL, Math.max(0, size - TAIL));
    const line = buffer.toString("utf8", 0, bytesRead).trimEnd().split("\n").at(-1)?.trim();
    return line === "" ? undefined : line?.slice(0, LONGEST_LINE);
  } catch {
    return undefined;
  }
}

/** What QEMU calls its reasons ("ShutdownCause" of its reference), in words. */
const REASONS: Readonly<Record<string, string>> = {
  "guest-shutdown": "guest shut down",
  "guest-reset": "guest was reset",
  "guest-panic": "guest panicked",
  "host-qmp-quit": "QEMU was told to quit",
  "host-error": "QEMU failed",
};

/**
 * Why a machine ended, for people.
 *
 * @param said what QEMU gave as its reason on the monitor, if anybody heard it
 */
export function machineEndReason({ exitCode, signal, lastLine }: MachineEnd, said: string | undefined): string {
  if (signal !== undefined) return `killed by signal ${signal}${nameOf(signal)}`;
  const because = lastLine === undefined ? "" : `: ${lastLine}`;
  if (exitCode === undefined) return `ended, and nobody saw how${because}`;
  if (exitCode !== 0) return `exit code ${exitCode}${because}`;
  const terminated = /terminating on (signal \d+)/.exec(lastLine ?? "")?.[1];
  if (terminated !== undefined) return `QEMU was ended by ${terminated}`;
  // Nobody but the guest ends QEMU in order without a word and without this monitor.
  return REASONS[said ?? "guest-shutdown"] ?? `QEMU ended: ${said}`;
}

function nameOf(signal: number): string {
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0];
  return name === undefined ? "" : ` (${name})`;
}
