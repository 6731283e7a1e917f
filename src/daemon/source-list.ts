/**
 * Where the bytes of disks and exports come from: which of them need each source, how it is by what they have seen of it, and what was asked of
 * it for all of them. Counts begin when a disk is opened and go with it.
 */
import type { Source } from "../api/index.ts";
import { LatencyHistogram } from "../block/index.ts";
import { isUri } from "../chain/index.ts";
import type { DiskInfo, SourceFigures } from "../engine/index.ts";
import { shownReference } from "../sources/index.ts";
import { isServedIn } from "./allowed-paths.ts";
import type { HeldDisk } from "./disks.ts";
import type { HeldDomain } from "./domains.ts";
import type { HeldExport } from "./exports.ts";
import { exportNeeds } from "./source-needs.ts";
import type { SpeedLimits } from "./speed-limits.ts";
import { below } from "./views.ts";

type State = Source["state"];

const WORSE: Readonly<Record<State, number>> = { ok: 0, deleted: 1, lost: 2, changed: 3 };

/** What is known of one source so far. */
class Seen {
  state: State = "ok";
  since: number | undefined;
  readonly disks: string[] = [];
  readonly exports: string[] = [];
  readonly domains: string[] = [];
  missingBytes = 0;
  requests = 0;
  fetchedBytes = 0;
  errors = 0;
  lastError: Source["lastError"];
  readonly #latency = new LatencyHistogram();

  /** How one of its disks sees it. The worst counts, and of several the first that saw it. */
  see(state: State, since: number | undefined): void {
    if (WORSE[state] < WORSE[this.state]) return;
    const earlier = state === this.state ? this.since : undefined;
    this.since = earlier === undefined || (since !== undefined && since < earlier) ? since : earlier;
    this.state = state;
  }

  count({ requests, bytes, errors, lastError, latency }: SourceFigures): void {
    this.requests += requests;
    this.fetchedBytes += bytes;
    this.errors += errors;
    this.#latency.add(latency);
    if (lastError !== undefined && lastError.time >= (this.lastError?.time ?? 0)) this.lastError = lastError;
  }

  view(uri: string, speed: number | undefined): Source {
    const { state, since, disks, exports, domains, missingBytes, requests, fetchedBytes, errors, lastError } = this;
    const [p50, p99] = [this.#latency.percentile(0.5), this.#latency.percentile(0.99)];
    return {
      ...{ uri, state, disks, exports, domains, missingBytes, requests, fetchedBytes, errors },
      ...(since !== undefined && { since }),
      ...(lastError !== undefined && { lastError }),
      ...(p50 !== undefined && p99 !== undefined && { latency: { p50, p99 } }),
      ...(speed !== undefined && { speed }),
    };
  }
}

export interface SourceUsers {
  readonly disks: readonly HeldDisk[];
  readonly exports: readonly HeldExport[];
  readonly domains: readonly HeldDomain[];
  /** Where the daemon's own exports have their sockets. */
  readonly sockets: string;
}

export async function sourcesOf(users: SourceUsers, limits: SpeedLimits): Promise<Source[]> {
  const { disks, exports, domains, sockets } = users;
  const found = new Map<string, Seen>();
  const at = (uri: string): Seen => {
    const there = found.get(uri) ?? new Seen();
    found.set(uri, there);
    return there;
  };
  const count = (needed: readonly string[], info: DiskInfo | undefined): void => {
    for (const uri of needed) {
      const state = info === undefined ? "lost" : info.source.state === "none" ? "ok" : info.source.state;
      at(uri).see(state, info?.source.since);
    }
    for (const figures of info?.sources ?? []) at(figures.uri).count(figures);
  };
  for (const { record, host } of disks) {
    const { backing } = record.settings;
    const info = await host.served?.info().catch(() => undefined);
    const needed = below(record.settings, info);
    for (const uri of needed) {
      const source = at(uri);
      source.disks.push(record.name);
      source.missingBytes += info?.missingBytes ?? 0;
    }
    count(needed, info);
    // What was an export of the daemon's own goes by itself.
    if (backing !== undefined && needed.length === 0 && !isServedIn(backing, sockets)) at(shownReference(backing));
  }
  for (const { record, host } of exports) {
    const info = await host.served?.info().catch(() => undefined);
    const all = info === undefined ? (record.needs ?? []) : exportNeeds(record, info.below);
    const { image } = record.settings;
    // A file that is offered is no source, unless a disk lies over it too.
    const needed = all.filter((uri) => uri !== image || isUri(image) || found.has(uri));
    for (const uri of needed) at(uri).exports.push(record.name);
    count(needed, info);
  }
  for (const { record } of domains) for (const uri of record.needs ?? []) at(uri).domains.push(record.name);
  return Array.from(found, ([uri, source]) => source.view(uri, limits.over(uri)?.speed)).sort((a, b) =>
    a.uri < b.uri ? -1 : 1,
  );
}
