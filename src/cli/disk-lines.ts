/** Disks, streams and events of the daemon as lines for people. */
import type { Disk, Event, Job, Limit, NbdExportView, Source } from "../api/index.ts";
import { hasEnded } from "../jobs/index.ts";
import { timeOf } from "./client-lines.ts";
import { columns, sizeWithBytes } from "./output.ts";
import { formatDuration, formatSize } from "./units.ts";

/** A table of disks, or a sentence when there are none. */
export function disksTable(disks: readonly Disk[]): string[] {
  if (disks.length === 0) return ["There are no disks: make one with 'streamdisk disk create'"];
  const rows = disks.map((disk) => [
    disk.name,
    disk.length === undefined ? "-" : formatSize(disk.length),
    localPercent(disk),
    diskState(disk),
    disk.clients === undefined ? "-" : String(disk.clients),
    disk.backing ?? "-",
  ]);
  return columns([["NAME", "SIZE", "LOCAL", "STATE", "CLIENTS", "SOURCE"], ...rows]);
}

/** A table of disks and of what each depends on, from the top down: a line a layer of its chain. */
export function wideTable(disks: readonly Disk[]): string[] {
  if (disks.length === 0) return disksTable(disks);
  const rows = disks.flatMap((disk) => {
    const { name, missingBytes, onSourceError, below = [] } = disk;
    const missing = missingBytes === undefined ? "-" : formatSize(missingBytes);
    const policy = below.length === 0 ? "-" : policyInWords(onSourceError);
    const [first = { host: "-", uri: "-" }, ...rest] = below;
    return [
      [name, diskState(disk), missing, policy, first.host, first.uri],
      ...rest.map(({ host, uri }) => ["", "", "", "", host, uri]),
    ];
  });
  return columns([["NAME", "STATE", "MISSING", "WHEN THAT DIES", "HOST", "DEPENDS ON"], ...rows]);
}

export function localPercent({ length, missingBytes }: Pick<Disk, "length" | "missingBytes">): string {
  if (length === undefined || missingBytes === undefined) return "-";
  return `${length === 0 ? 100 : Math.floor((1 - missingBytes / length) * 100)}%`;
}

/** Until a stream's end, where that is known. */
export function timeLeft(stream: Job | undefined): string {
  const eta = stream === undefined || hasEnded(stream) ? undefined : stream.etaSeconds;
  return eta === undefined ? "-" : formatDuration(Math.max(1000, eta * 1000));
}

const WELL: readonly string[] = ["ok", "none"];

/** Whether nothing is wrong with its source. */
export function isWell({ source }: Disk): boolean {
  return source === undefined || WELL.includes(source.state);
}

/** In a word or a few: what its owner would want to know first. */
export function diskState(disk: Disk): string {
  const { state, source, stream, hydrated } = disk;
  if (state !== "ready") return state;
  if (source !== undefined && !isWell(disk)) return `source ${source.state}`;
  if (stream !== undefined && !hasEnded(stream)) return streamState(stream);
  return hydrated ? "stands alone" : "served";
}

function streamState({ state, rate, reason }: Job): string {
  if (state === "running") return `streaming, ${formatSize(Math.round(rate))}/s`;
  if (state === "created" || reason?.code === "queued") return "stream queued";
  return `stream ${state}`;
}

/** All of one disk. */
export function diskLines(disk: Disk): string[] {
  const { name, state, error, image, format, backing, uri, length, source, stream } = disk;
  const lines = [`disk: ${name}`, `state: ${state}`];
  if (error !== undefined) lines.push(`error: ${error.message}`);
  lines.push(`image: ${image}${format === undefined ? "" : ` (${format})`}`);
  if (backing !== undefined) lines.push(`backing file: ${backing}`);
  if (uri !== undefined) lines.push(`served at: ${uri} (${disk.clients ?? 0} clients)`);
  if (length !== undefined) lines.push(`virtual size: ${sizeWithBytes(length)}`);
  if (disk.localBytes !== undefined) lines.push(`local: ${sizeWithBytes(disk.localBytes)}`);
  if (disk.zeroBytes !== undefined) lines.push(`zero: ${sizeWithBytes(disk.zeroBytes)}`);
  if (disk.missingBytes !== undefined) lines.push(`missing: ${sizeWithBytes(disk.missingBytes)}`);
  if (source !== undefined && source.state !== "none") {
    const held = source.held === 0 ? "" : `, ${source.held} requests wait for it`;
    lines.push(`source: ${source.state}${source.message ? ` (${source.message})` : ""}${held}`);
  }
  if (!disk.hydrated) lines.push(`when the source is lost: ${policyInWords(disk.onSourceError)}`);
  if (stream !== undefined) lines.push(...jobLines(stream));
  return lines;
}

export function policyInWords({ holdMs, afterwards }: Disk["onSourceError"]): string {
  if (holdMs === null) return "hold";
  if (holdMs === 0 && afterwards === "error") return "error";
  return `hold for ${formatDuration(holdMs)}, then ${afterwards}`;
}

export function jobLines(job: Job): string[] {
  const { state, reason, offset, length, rate, etaSeconds, speed } = job;
  const eta = etaSeconds === undefined ? "" : `, ${formatDuration(etaSeconds * 1000)} left`;
  const pace = state === "running" ? ` (${formatSize(Math.round(rate))}/s${eta})` : "";
  const lines = [`stream: ${state}${pace}, at ${offset} of ${length}`];
  if (speed !== undefined) lines.push(`stream speed: ${formatSize(speed)}/s at most`);
  if (reason !== undefined) lines.push(`stream reason: ${reason.message}`);
  return lines;
}

export function jobsTable(jobs: readonly Job[]): string[] {
  if (jobs.length === 0) return ["There are no streams: start one with 'streamdisk stream DISK'"];
  const rows = jobs.map((job) => [
    job.disk,
    job.state,
    `${job.length === 0 ? 100 : Math.floor((1 - job.missingBytes / job.length) * 100)}%`,
    formatSize(job.copiedBytes),
    timeOf(job.startedAt ?? job.createdAt),
    job.endedAt === undefined ? "-" : timeOf(job.endedAt),
    job.reason?.message ?? "",
  ]);
  return columns([["DISK", "STATE", "LOCAL", "FETCHED", "STARTED", "ENDED", "WHY"], ...rows]);
}

export function exportsTable(exports: readonly NbdExportView[]): string[] {
  if (exports.length === 0) return ["There are no exports: add one with 'streamdisk export add'"];
  const rows = exports.map(({ name, readOnly, clients, uri, error, image }) => [
    name,
    readOnly ? "read-only" : "writable",
    String(clients),
    uri ?? `failed: ${error?.message ?? "not open"}`,
    image,
  ]);
  return columns([["NAME", "MODE", "CLIENTS", "ADDRESS", "IMAGE"], ...rows]);
}

export function sourcesTable(sources: readonly Source[]): string[] {
  if (sources.length === 0) return ["No disk, export or machine of the daemon has a source"];
  const rows = sources.map(({ uri, state, since, missingBytes, fetchedBytes, errors, latency, speed, ...by }) => [
    uri,
    by.disks.length + by.exports.length === 0
      ? "-"
      : state === "ok" || since === undefined
        ? state
        : `${state} since ${timeOf(since)}`,
    formatSize(missingBytes),
    formatSize(fetchedBytes),
    String(errors),
    latency === undefined ? "-" : `${latency.p50.toPrecision(2)}/${latency.p99.toPrecision(2)} ms`,
    speed === undefined ? "-" : `${formatSize(speed)}/s`,
    neededBy(by) || "none: it may go",
  ]);
  return columns([["SOURCE", "STATE", "MISSING", "FETCHED", "ERRORS", "P50/P99", "LIMIT", "NEEDED BY"], ...rows]);
}

function neededBy({ disks, exports, domains }: Pick<Source, "disks" | "exports" | "domains">): string {
  const others = [...exports.map((name) => `export ${name}`), ...domains.map((name) => `domain ${name}`)];
  return [...disks, ...others].join(", ");
}

export function limitsTable(limits: readonly Limit[]): string[] {
  const rows = limits.map(({ place, speed, setBy }) => [
    LIMITED[place] ?? place,
    speed === null ? "no limit" : `${formatSize(speed)}/s`,
    setBy === "api" ? "set here" : setBy,
  ]);
  return columns([["STREAMS FROM", "TOGETHER", "BY"], ...rows]);
}

const LIMITED: Readonly<Record<string, string>> = { all: "everywhere (all)", each: "one source (each)" };

export function eventLine({ time, type, message }: Event): string {
  return `${timeOf(time)}  ${type.padEnd(15)}  ${message}`;
}
