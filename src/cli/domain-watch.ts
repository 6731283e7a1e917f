/** A domain's disk at a glance, and those of all domains: pure, from what the API says to lines. */
import type { Domain, DomainDisk, Event } from "../api/index.ts";
import { hasEnded } from "../jobs/index.ts";
import { eventLine, localPercent, timeLeft } from "./disk-lines.ts";
import { columns } from "./output.ts";
import { figures, type Moment, progressLine } from "./progress.ts";
import { formatSize } from "./units.ts";

export interface WatchedDomainDisk {
  readonly domain: Domain;
  readonly disk: DomainDisk;
  /** The last ones, in order. */
  readonly events: readonly Event[];
}

export function domainWatchLines({ domain, disk, events }: WatchedDomainDisk): string[] {
  const { image, format, backing, stream } = disk;
  const lines = [stateLine(domain, disk)];
  if (domain.error !== undefined) lines.push(`error: ${domain.error.message}`);
  if (domain.pause !== undefined) lines.push(`paused: ${domain.pause.reason}`);
  const moment = momentOf(disk);
  if (moment !== undefined) lines.push(progressLine(moment));
  if (stream?.reason !== undefined && !hasEnded(stream)) lines.push(`why: ${stream.reason.message}`);
  if (image !== undefined) lines.push(`image: ${image}${format === undefined ? "" : ` (${format})`}`);
  if (backing !== undefined) lines.push(`source: ${backing}`);
  return [...lines, "", ...events.map(eventLine)];
}

/** How it is, in a line for a log. */
export function domainStatusLine({ domain, disk }: WatchedDomainDisk): string {
  const moment = momentOf(disk);
  return [stateLine(domain, disk), ...(moment === undefined ? [] : [figures(moment).trim()])].join("; ");
}

function stateLine({ state }: Domain, { name, stream }: DomainDisk): string {
  const said = stream === undefined ? "no stream yet" : `stream ${stream.state}`;
  return `${name}: machine ${state}, ${said}`;
}

/** As its last stream has it: QEMU is not asked. */
function momentOf({ stream }: DomainDisk): Moment | undefined {
  if (stream === undefined || stream.length === 0) return undefined;
  const { length, missingBytes, rate, etaSeconds } = stream;
  const far = { done: length - missingBytes, total: length };
  return hasEnded(stream) ? far : { ...far, rate, eta: etaSeconds };
}

/** Disks of machines whose streams have not ended; nothing when there are none. */
export function domainTopLines(domains: readonly Domain[]): string[] {
  const rows = domains.flatMap(({ state, disks }) =>
    disks.flatMap(({ name, stream }) => {
      if (stream === undefined || hasEnded(stream)) return [];
      const local = stream.length === 0 ? "-" : localPercent(stream);
      const speed = `${formatSize(Math.round(stream.rate))}/s`;
      return [[name, state, stream.state, local, formatSize(stream.missingBytes), timeLeft(stream), speed]];
    }),
  );
  if (rows.length === 0) return [];
  return ["", ...columns([["DISK OF A MACHINE", "MACHINE", "STREAM", "LOCAL", "MISSING", "LEFT", "FETCHED"], ...rows])];
}
