/** What Prometheus is told: the state of the disks at the moment it asks, and a count of the requests that were answered. */
import { Counter, Gauge, Registry } from "prom-client";
import type { Disk, Service } from "../api/index.ts";

const PAGE = 1000;

export class Metrics {
  readonly #service: Service;
  readonly #registry = new Registry();
  readonly #requests: Counter<"route" | "method" | "status">;
  readonly #disks: Gauge<"state">;
  readonly #streams: Gauge<"state">;
  readonly #missing: Gauge<"disk">;
  readonly #fetched: Gauge<"disk">;
  readonly #held: Gauge<"disk">;

  constructor(service: Service) {
    this.#service = service;
    const registers = [this.#registry];
    const gauge = <L extends string>(name: string, help: string, label: L): Gauge<L> =>
      new Gauge({ name: `streamdisk_${name}`, help, labelNames: [label], registers });
    this.#disks = gauge("disks", "Disks that the daemon keeps", "state");
    this.#streams = gauge("streams", "Disks by the state of their last stream", "state");
    this.#missing = gauge("disk_missing_bytes", "What is gone if the source dies now", "disk");
    this.#fetched = gauge(
      "disk_fetched_bytes",
      "What reads of the guest have fetched since the disk was opened",
      "disk",
    );
    this.#held = gauge("disk_held_requests", "Requests of the guest that wait for a dead source", "disk");
    this.#requests = new Counter({
      name: "streamdisk_http_requests_total",
      help: "Requests that the API has answered",
      labelNames: ["route", "method", "status"],
      registers,
    });
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
    const disks = await this.#all();
    for (const gauge of [this.#disks, this.#streams, this.#missing, this.#fetched, this.#held]) gauge.reset();
    for (const disk of disks) {
      this.#disks.inc({ state: disk.state });
      if (disk.stream !== undefined) this.#streams.inc({ state: disk.stream.state });
      if (disk.missingBytes !== undefined) this.#missing.set({ disk: disk.name }, disk.missingBytes);
      if (disk.fetchedBytes !== undefined) this.#fetched.set({ disk: disk.name }, disk.fetchedBytes);
      if (disk.source !== undefined) this.#held.set({ disk: disk.name }, disk.source.held);
    }
    return this.#registry.metrics();
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
