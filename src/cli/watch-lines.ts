/** One disk at a glance, and all disks at a glance: pure, from what the API says to lines. */
import type { DaemonInfo, Disk, Event, NbdClient } from "../api/index.ts";
import { hasEnded } from "../jobs/index.ts";
import { clientsTable, latency, loadLine, timeOf } from "./client-lines.ts";
import { diskState, eventLine, isWell, localPercent, policyInWords, timeLeft } from "./disk-lines.ts";
import { columns } from "./output.ts";
import { figures, type Moment, progressLine } from "./progress.ts";
import { formatSize } from "./units.ts";

/** What `watch` knows of its disk. */
export interface WatchedDisk {
  readonly disk: Disk;
  readonly clients: readonly NbdClient[];
  /** The last ones, in order. */
  readonly events: readonly Event[];
}

export function watchLines({ disk, clients, events }: WatchedDisk): string[] {
  const { name, error, source, backing, stream } = disk;
  const lines = [`${name}: ${diskState(disk)}`];
  if (error !== undefined) lines.push(`error: ${error.message}`);
  const moment = momentOf(disk);
  if (moment !== undefined) lines.push(progressLine(moment));
  if (stream?.reason !== undefined && !hasEnded(stream)) lines.push(`why: ${stream.reason.message}`);
  if (source !== undefined && source.state !== "none") {
    const said = source.message ? ` (${source.message})` : "";
    lines.push(`source: ${backing ?? "-"}, ${source.state}${said}`);
    if (source.held > 0) lines.push(`requests that wait for it: ${source.held}`);
  }
  lines.push(ifTheSourceDied(disk), loadLine(disk.load), "", ...clientsTable(clients), "", ...events.map(eventLine));
  return lines;
}

/** How it is, in a line for a log. */
export function statusLine(disk: Disk): string {
  const moment = momentOf(disk);
  const far = moment === undefined ? [] : [figures(moment).trim()];
  return [`${disk.name}: ${diskState(disk)}`, ...far, loadLine(disk.load)].join("; ");
}

function ifTheSourceDied({ hydrated, missingBytes, onSourceError }: Disk): string {
  if (hydrated || missingBytes === 0) return "if the source died now: nothing would be lost";
  if (missingBytes === undefined) return "if the source died now: not known while the disk is not open";
  const policy = policyInWords(onSourceError);
  return `if the source died now: ${formatSize(missingBytes)} would be missing; a read of that would get: ${policy}`;
}

/** How far it is: what a stream says, or what is local. Undefined while nobody knows. */
function momentOf({ length, missingBytes, stream }: Disk): Moment | undefined {
  if (length === undefined || missingBytes === undefined) return undefined;
  const far = { done: length - missingBytes, total: length };
  if (stream === undefined || hasEnded(stream)) return far;
  return { ...far, rate: stream.rate, eta: stream.etaSeconds };
}

/** All disks, those first that need somebody to look at them, then those that have most to do. */
export function topLines({ streams, maxStreams }: DaemonInfo, disks: readonly Disk[], now: number): string[] {
  const missing = disks.reduce((sum, { missingBytes = 0 }) => sum + missingBytes, 0);
  const title = `${timeOf(now)}  ${disks.length} disks, ${streams} of ${maxStreams} streams, ${formatSize(missing)} missing`;
  const head = [
    "DISK",
    "STATE",
    "LOCAL",
    "MISSING",
    "LEFT",
    "CLIENTS",
    "READS/s",
    "READ/s",
    "P99",
    "WRITES/s",
    "WRITTEN/s",
    "P99",
  ];
  const sorted = [...disks].sort((a, b) => rank(a) - rank(b) || traffic(b) - traffic(a) || (a.name < b.name ? -1 : 1));
  const rows = sorted.map((disk) => {
    const { load, stream, missingBytes } = disk;
    return [
      disk.name,
      diskState(disk),
      localPercent(disk),
      missingBytes === undefined ? "-" : formatSize(missingBytes),
      timeLeft(stream),
      String(disk.clients ?? 0),
      String(load?.reads ?? 0),
      formatSize(load?.readBytes ?? 0),
      latency(load?.readP99Us ?? 0),
      String(load?.writes ?? 0),
      formatSize(load?.writtenBytes ?? 0),
      latency(load?.writeP99Us ?? 0),
    ];
  });
  return [title, ...columns([head, ...rows])];
}

function rank(disk: Disk): number {
  if (disk.state !== "ready" || !isWell(disk)) return 0;
  return disk.stream !== undefined && !hasEnded(disk.stream) ? 1 : 2;
}

function traffic({ load }: Disk): number {
  return (load?.readBytes ?? 0) + (load?.writtenBytes ?? 0);
}
