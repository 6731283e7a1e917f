/** Machines and their disks in words. */
import type { RouteResult } from "../src/client/index.ts";
import { type Condition, hasEnded, timeOfDay } from "./words.ts";

export type Machine = RouteResult<"listDomains">["domains"][number];
export type MachineDisk = Machine["disks"][number];

/** What QEMU says of a machine, for people. */
const CONDITIONS: Readonly<Record<string, Condition>> = {
  running: { word: "running", tone: "good" },
  paused: { word: "paused", tone: "calm" },
  prelaunch: { word: "not started yet", tone: "calm" },
  suspended: { word: "asleep", tone: "calm" },
  shutdown: { word: "shut down", tone: "calm" },
  "io-error": { word: "paused by an I/O error", tone: "bad" },
  "internal-error": { word: "stopped by an error of QEMU", tone: "bad" },
  "guest-panicked": { word: "its system has crashed", tone: "bad" },
  unreachable: { word: "not reachable", tone: "bad" },
  stopped: { word: "stopped", tone: "calm" },
};

/** Why it does not run, and since when. */
export function endOf({ state, machine }: Machine): string | undefined {
  if (state !== "stopped" || machine?.end === undefined) return undefined;
  return `It ended at ${timeOfDay(machine.end.at)}: ${machine.end.reason}`;
}

/** Why one that is paused is so, and what happens next: a mark of the daemon's, which counts for more than QEMU's word. */
const PAUSES: Readonly<Record<string, Condition>> = {
  paused: { word: "paused", tone: "calm" },
  "source-lost": { word: "paused: its source is lost", tone: "bad" },
  changed: { word: "paused: its source is another", tone: "bad" },
  "no-space": { word: "paused: its disk's file system is full", tone: "bad" },
  io: { word: "paused by an I/O error", tone: "bad" },
};

export function machineCondition({ state, pause }: Machine): Condition {
  const marked = pause === undefined || state === "unreachable" ? undefined : PAUSES[pause.code];
  if (marked !== undefined) return marked;
  return CONDITIONS[state] ?? { word: state, tone: "calm" };
}

/** How a disk is that its machine's QEMU owns. @param hydrated whether it needs its source no more, where that is known */
export function machineDiskCondition({ backing, stream }: MachineDisk, hydrated?: boolean): Condition {
  if (hydrated ?? (backing === undefined || stream?.state === "completed")) return { word: "complete", tone: "good" };
  if (stream?.state === "failed") return { word: "stream failed", tone: "bad" };
  if (stream === undefined || hasEnded(stream)) return { word: "over its source", tone: "calm" };
  if (stream.state === "running") return { word: "streaming", tone: "busy" };
  if (stream.state === "paused") return { word: "paused", tone: "calm" };
  return { word: "waiting", tone: stream.reason?.code === "queued" ? "calm" : "bad" };
}
