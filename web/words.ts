/** Figures and states in words. */
import type { Disk, Job } from "../src/client/index.ts";

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** Three digits and a unit: "1.25 GiB". */
export function bytes(amount: number): string {
  let value = amount;
  let unit = 0;
  // What would be shown as 1000 of a unit is one of the next.
  while (value >= (unit === 0 ? 1024 : 999.5) && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  if (unit === 0) return `${Math.round(value)} ${value === 1 ? "byte" : "bytes"}`;
  return `${threeDigits(value)} ${UNITS[unit]}`;
}

/** A sentence of the daemon, in which amounts are exact, for people: "1073741824 bytes" is "1 GiB". */
export function forPeople(sentence: string): string {
  return sentence.replace(
    /\b(\d{4,}) bytes( a second)?\b/g,
    (_, amount: string, each = "") => `${bytes(Number(amount))}${each}`,
  );
}

export function rate(bytesASecond: number): string {
  return `${bytes(bytesASecond)}/s`;
}

function threeDigits(value: number): string {
  if (value >= 100) return String(Math.round(value));
  return String(Number(value.toFixed(value >= 10 ? 1 : 2)));
}

/** A share, never said to be all or nothing when it is not. */
export function percent(part: number, whole: number): string {
  if (whole === 0 || part >= whole) return "100 %";
  if (part <= 0) return "0 %";
  const share = (part / whole) * 100;
  if (share < 0.1) return "under 0.1 %";
  return share > 99.9 ? "over 99.9 %" : `${share.toFixed(1)} %`;
}

/** Microseconds, as people say them. */
export function latency(us: number): string {
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 1_000_000 ? `${threeDigits(us / 1000)} ms` : `${threeDigits(us / 1_000_000)} s`;
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  return seconds < 48 * 3600 ? `${threeDigits(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

export function timeOfDay(ms: number): string {
  return new Date(ms).toLocaleTimeString(undefined, { hour12: false });
}

/** What lacks nothing stands alone. */
export function missingIn(disk: Disk): number {
  if (disk.hydrated === true) return 0;
  return activeOf(disk.stream)?.missingBytes ?? disk.missingBytes ?? 0;
}

export function hasEnded({ state }: Job): boolean {
  return state === "completed" || state === "cancelled" || state === "failed";
}

/** A stream that has not ended; undefined where there is none. */
export function activeOf(stream: Job | undefined): Job | undefined {
  return stream === undefined || hasEnded(stream) ? undefined : stream;
}

/** Whether its figures change by themselves, or may do so at any moment. */
export function isUnderWay(stream: Job | undefined): boolean {
  const active = activeOf(stream);
  return active !== undefined && active.state !== "paused";
}

/** Why a stream does not run, where that needs saying. */
export function reasonOf(stream: Job | undefined): string | undefined {
  if (stream === undefined || stream.state === "running") return undefined;
  return stream.state === "failed" || !hasEnded(stream) ? stream.reason?.message : undefined;
}

/** How far a disk is that lacks something, and what goes on with it, in sentences. */
export function storyOf(length: number, missing: number, stream: Job | undefined): string {
  const share = `${percent(length - missing, length)} of ${bytes(length)} is here`;
  const active = activeOf(stream);
  if (active === undefined) {
    const last = stream?.state === "failed" ? ` The last stream failed: ${stream.reason?.message ?? ""}` : "";
    return `${share}; nothing fetches the rest but what its machine reads.${last}`;
  }
  if (active.state === "running") {
    const limit = active.speed === undefined ? "" : ` (limit ${rate(active.speed)})`;
    const left = active.etaSeconds === undefined ? "" : `, about ${duration(active.etaSeconds)} left`;
    return `${share}. The rest comes at ${rate(active.rate)}${limit}${left}.`;
  }
  if (active.state === "paused") return `${share}. The stream is paused.`;
  return `${share}. The stream waits${active.reason === undefined ? "." : `: ${forPeople(active.reason.message)}`}`;
}

/** How a disk is: what one would call out to somebody across the room. */
export interface Condition {
  readonly word: string;
  readonly tone: "good" | "busy" | "calm" | "bad";
}

export function conditionOf({ state, stream, source, hydrated }: Disk): Condition {
  if (state === "failed") return { word: "not open", tone: "bad" };
  if (state === "creating") return { word: "being made", tone: "busy" };
  if (state === "deleting") return { word: "being deleted", tone: "calm" };
  if (hydrated === true) return { word: "complete", tone: "good" };
  if (source?.state === "lost") return { word: "source lost", tone: "bad" };
  if (source?.state === "changed") return { word: "source changed", tone: "bad" };
  if (source?.state === "deleted") return { word: "source deleted", tone: "bad" };
  if (stream?.state === "completed" && stream.base !== undefined) return { word: "over its base", tone: "good" };
  if (stream?.state === "failed") return { word: "stream failed", tone: "bad" };
  if (stream?.state === "running") return { word: "streaming", tone: "busy" };
  if (stream?.state === "paused") return { word: "paused", tone: "calm" };
  if (stream !== undefined && !hasEnded(stream)) return { word: "waiting", tone: "calm" };
  return { word: "served", tone: "calm" };
}

/** How its source is, in a few words. */
export function sourceInWords({ source, backing, hydrated }: Disk): string {
  if (hydrated === true || source?.state === "none") return "none needed";
  if (source === undefined) return backing === undefined ? "none" : "not known";
  const waits = source.held === 0 ? "" : `, ${source.held} ${source.held === 1 ? "request waits" : "requests wait"}`;
  return (
    { ok: "well", lost: "lost", changed: "not what it was", deleted: "deleted, read on", none: "" }[source.state] +
    waits
  );
}

/** What becomes of reads of what is missing: `isGone` says it of a source that is lost now, else of one that might be. */
export function policyInWords({ holdMs, afterwards }: Disk["onSourceError"], isGone: boolean): string {
  const would = isGone ? "" : "would ";
  const pause = `its machine ${isGone ? "is" : "would be"} paused`;
  if (holdMs === null) return `${would}wait until the source is back`;
  if (holdMs === 0) return afterwards === "pause" ? `${would}fail, and ${pause}` : `${would}fail at once`;
  const then = afterwards === "pause" ? pause : `they ${would}fail`;
  return `${would}wait for ${duration(holdMs / 1000)}; then ${then}`;
}
