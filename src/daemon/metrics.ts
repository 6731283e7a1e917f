/**
 * What Prometheus is told: how the disks are at the moment it asks, what has been counted, and how the process is. There is a series for each
 * disk and each export, and for nothing that a client could make up.
 *
 * Counters of a disk begin anew when it is opened anew, as Prometheus expects of whatever is restarted.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Counter, Gauge, Registry } from "prom-client";
import type { Disk, Service } from "../api/index.ts";

const PAGE = 1000;
/** How often it is looked whether the loop of the control plane is late. */
const LOOP_LOOK_MS = 50;
const MICROSECONDS = 1e-6;
const NANOSECONDS = 1e-9;
const QUANTILES = { "0.5": "p50Us", "0.9": "p90Us", "0.99": "p99Us" } as const;

interface Figure {
  readonly name: string;
  readonly help: string;
  /** Undefined while the disk is not open. */
  readonly of: (disk: Disk) => number | undefined;
}

const NOW: readonly Figure[] = [
  { name: "missing_bytes", help: "What is gone if the source dies now", of: (disk) => disk.missingBytes },
  { name: "local_bytes", help: "Data in the image itself", of: (disk) => disk.localBytes },
  { name: "size_bytes", help: "Virtual size", of: (disk) => disk.length },
  { name: "clients", help: "Connections that use it", of: (disk) => disk.clients },
  { name: "held_requests", help: "Requests of the guest that wait for a dead source", of: (disk) => disk.source?.held },
];

const COUNTED: readonly Figure[] = [
  { name: "fetched_bytes_total", help: "Fetched for reads of the guest", of: (disk) => disk.fetchedBytes },
  { name: "streamed_bytes_total", help: "Fetched by streams", of: (disk) => disk.streamedBytes },
  { name: "read_bytes_total", help: "Read by clients", of: (disk) => disk.traffic?.readBytes },
  { name: "written_bytes_total", help: "Written by clients", of: (disk) => disk.traffic?.writtenBytes },
  { name: "reads_total", help: "Reads of clients", of: (disk) => disk.traffic?.reads },
  { name: "writes_total", help: "Writes of clients", of: (disk) => disk.traffic?.writes },
  { name: "flushes_total", help: "Flushes of clients", of: (disk) => disk.traffic?.flushes },
  { name: "errors_total", help: "Requests answered with an error", of: (disk) => disk.traffic?.errors },
  { name: "read_seconds_total", help: "What all reads took", of: (disk) => seconds(disk.traffic?.readLatency.totalUs) },
  {
    name: "write_seconds_total",
    help: "What all writes took",
    of: (disk) => seconds(disk.traffic?.writeLatency.totalUs),
  },
];

export class Metrics {
  readonly #service: Service;
  readonly #registry = new Registry();
  readonly #requests: Counter<"route" | "method" | "status">;
  readonly #disks: Gauge<"state">;
  readonly #streams: Gauge<"state">;
  readonly #sources: Gauge<"state">;
  readonly #exports: Gauge<"export">;
  readonly #readLatency: Gauge<"disk" | "quantile">;
  readonly #writeLatency: Gauge<"disk" | "quantile">;
  readonly #now: readonly { readonly of: Figure["of"]; readonly gauge: Gauge<"disk"> }[];
  readonly #counted: readonly { readonly of: Figure["of"]; readonly counter: Counter<"disk"> }[];
  readonly #memory: Gauge;
  readonly #cpu: Counter;
  readonly #lag: Gauge<"quantile">;
  readonly #loop = monitorEventLoopDelay({ resolution: LOOP_LOOK_MS });

  constructor(service: Service) {
    this.#service = service;
    const registers = [this.#registry];
    const gauge = <L extends string>(name: string, help: string, ...labelNames: L[]): Gauge<L> =>
      new Gauge({ name, help, labelNames, registers });
    const counter = <L extends string>(name: string, help: string, ...labelNames: L[]): Counter<L> =>
      new Counter({ name, help, labelNames, registers });
    this.#disks = gauge("streamdisk_disks", "Disks that the daemon keeps", "state");
    this.#streams = gauge("streamdisk_streams", "Disks by the state of their last stream", "state");
    this.#sources = gauge("streamdisk_disk_sources", "Disks by how their source is", "state");
    this.#exports = gauge("streamdisk_export_clients", "Connections that use an export", "export");
    const disk = (name: string): string => `streamdisk_disk_${name}`;
    this.#now = NOW.map(({ name, help, of }) => ({ of, gauge: gauge(disk(name), help, "disk") }));
    this.#counted = COUNTED.map(({ name, help, of }) => ({ of, counter: counter(disk(name), help, "disk") }));
    const took = "took at most, since the disk was opened";
    this.#readLatency = gauge(disk("read_latency_seconds"), `What this part of the reads ${took}`, "disk", "quantile");
    this.#writeLatency = gauge(
      disk("write_latency_seconds"),
      `What this part of the writes ${took}`,
      "disk",
      "quantile",
    );
    this.#requests = counter(
      "streamdisk_http_requests_total",
      "Requests that the API has answered",
      "route",
      "method",
      "status",
    );
    this.#memory = gauge("process_resident_memory_bytes", "Resident memory of the daemon");
    this.#cpu = counter("process_cpu_seconds_total", "Processor time of the daemon, in user and system mode");
    this.#lag = gauge(
      "streamdisk_event_loop_lag_seconds",
      "How late the control plane is, by parts of the looks since the last scrape; threads of disks have loops of their own",
      "quantile",
    );
    this.#loop.enable();
  }

  /** @param route its path as in the table, so that there are no more of them than there */
  countRequest(route: string, method: string, status: number): void {
    this.#requests.inc({ route, method, status: String(status) });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** In the text format of Prometheus. */
  async text(): Promise<string> {
    const [disks, { exports }] = await Promise.all([
      this.#all(),
      this.#service.listExports({ params: {}, query: {}, body: {} }),
    ]);
    for (const gauge of [this.#disks, this.#streams, this.#sources, this.#exports]) gauge.reset();
    for (const gauge of [this.#readLatency, this.#writeLatency, ...this.#now.map(({ gauge }) => gauge)]) gauge.reset();
    for (const { counter } of this.#counted) counter.reset();
    for (const disk of disks) this.#tell(disk);
    for (const { name, clients } of exports) this.#exports.set({ export: name }, clients);
    this.#tellProcess();
    return this.#registry.metrics();
  }

  #tell(disk: Disk): void {
    const { name, state, stream, source, traffic } = disk;
    this.#disks.inc({ state });
    if (stream !== undefined) this.#streams.inc({ state: stream.state });
    if (source !== undefined) this.#sources.inc({ state: source.state });
    for (const { of, gauge } of this.#now) {
      const value = of(disk);
      if (value !== undefined) gauge.set({ disk: name }, value);
    }
    for (const { of, counter } of this.#counted) {
      const value = of(disk);
      if (value !== undefined) counter.inc({ disk: name }, value);
    }
    if (traffic === undefined) return;
    for (const [quantile, field] of Object.entries(QUANTILES)) {
      const labels = { disk: name, quantile };
      if (traffic.reads > 0) this.#readLatency.set(labels, traffic.readLatency[field] * MICROSECONDS);
      if (traffic.writes > 0) this.#writeLatency.set(labels, traffic.writeLatency[field] * MICROSECONDS);
    }
  }

  #tellProcess(): void {
    this.#memory.set(process.memoryUsage.rss());
    const { user, system } = process.cpuUsage();
    this.#cpu.reset();
    this.#cpu.inc((user + system) * MICROSECONDS);
    for (const quantile of Object.keys(QUANTILES)) {
      // What is measured is the time from one look to the next.
      const late = this.#loop.percentile(Number(quantile) * 100) * NANOSECONDS - LOOP_LOOK_MS / 1000;
      this.#lag.set({ quantile }, Math.max(0, late));
    }
    this.#loop.reset();
  }

  async #all(): Promise<Disk[]> {
    const all: Disk[] = [];
    let after: string | undefined;
    do {
      const query = { limit: PAGE, ...(after !== undefined && { after }) };
      const page = await this.#service.listDisks({ params: {}, query, body: {} });
      all.push(...page.disks);
      after = page.next;
    } while (after !== undefined);
    return all;
  }
}

function seconds(microseconds: number | undefined): number | undefined {
  return microseconds === undefined ? undefined : microseconds * MICROSECONDS;
}
