/**
 * How a machine ended. A shell that waits for QEMU leaves the exit status behind, so that it is known also to a daemon that was away; QEMU
 * itself tells on its monitor why it ends, to whom listens then.
 */
import { open, readFile } from "node:fs/promises";
import { constants } from "node:os";
import { type Clock, systemClock } from "../../block/index.ts";
import type { MachinePaths } from "./machine-paths.ts";
import { isWaitedFor } from "./machine-process.ts";

export interface MachineEnd {
  readonly exitCode?: number;
  readonly signal?: number;
  /** The last line of QEMU's errors. */
  readonly lastLine?: string;
}

const POLL_MS = 50;
/** How long the shell may take to write the status down. */
const WRITTEN_MS = 10_000;
const TAIL = 4096;
const LONGEST_LINE = 500;
/** Its name, and a node that it could not make, which is repeated whole and hides why. */
const PREAMBLE = /^\S*qemu-\S+: (?:-blockdev \{.*\}: )?/;
/** Where a shell puts signals among exit statuses. */
const SIGNALS_FROM = 128;

/** Of a machine that runs no more. */
export async function readMachineEnd(paths: MachinePaths, clock: Clock = systemClock): Promise<MachineEnd> {
  const status = await readStatus(paths, clock);
  const lastLine = await lastLineOf(paths.log);
  return {
    ...(status !== undefined && (status > SIGNALS_FROM ? { signal: status - SIGNALS_FROM } : { exitCode: status })),
    ...(lastLine !== undefined && { lastLine }),
  };
}

/** @returns undefined when the shell that was to write it has died too, or hangs */
async function readStatus(paths: MachinePaths, clock: Clock): Promise<number | undefined> {
  for (const until = clock.now() + WRITTEN_MS; ; ) {
    // Before the look at what it writes.
    const mayCome = await isWaitedFor(paths);
    const text = await readFile(paths.exit, "latin1").catch(() => "");
    if (/^\d{1,3}\n$/.test(text)) return Number(text);
    if (!mayCome || clock.now() >= until) return undefined;
    await clock.sleep(POLL_MS);
  }
}

async function lastLineOf(path: string): Promise<string | undefined> {
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    const { buffer, bytesRead } = await file.read(Buffer.alloc(TAIL), 0, TAIL, Math.max(0, size - TAIL));
    const line = buffer.toString("utf8", 0, bytesRead).trimEnd().split("\n").at(-1)?.trim();
    return line === "" ? undefined : line?.replace(PREAMBLE, "").slice(0, LONGEST_LINE);
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

/** What QEMU does because its guest, or whoever has its monitor, wants it. */
const ON_PURPOSE = ["guest-shutdown", "host-qmp-quit"];

/**
 * Why a machine ended, for people, and whether somebody wanted it.
 *
 * @param said what QEMU gave as its reason on the monitor. When nobody heard it: nobody but the guest ends QEMU in order, without a word and
 *   without this monitor
 */
export function machineEndReason(
  { exitCode, signal, lastLine }: MachineEnd,
  said = "guest-shutdown",
): { readonly reason: string; readonly onPurpose: boolean } {
  const because = (what: string) => (lastLine === undefined ? what : `${what}: ${lastLine}`);
  const terminated = /terminating on (signal \d+)/.exec(lastLine ?? "")?.[1];
  if (exitCode === 0 && terminated === undefined) {
    return { reason: REASONS[said] ?? `QEMU ended: ${said}`, onPurpose: ON_PURPOSE.includes(said) };
  }
  if (signal !== undefined) return { reason: `killed by signal ${signal}${nameOf(signal)}`, onPurpose: false };
  if (exitCode === undefined) return { reason: because("ended, and nobody saw how"), onPurpose: false };
  if (exitCode !== 0) return { reason: because(`exit code ${exitCode}`), onPurpose: false };
  return { reason: `QEMU was ended by ${terminated}`, onPurpose: false };
}

function nameOf(signal: number): string {
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0];
  return name === undefined ? "" : ` (${name})`;
}
