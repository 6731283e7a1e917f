/** A daemon without disks: answers every call of the API, remembers what it was asked, and fails as a test says. */
import type {
  CheckedInput,
  Deployment,
  Disk,
  Domain,
  Job,
  Live,
  NbdExportView,
  RouteName,
  Service,
} from "../../src/api/index.ts";
import type { EventFeed, EventQuery, EventRecord } from "../../src/jobs/index.ts";

export const JOB: Job = {
  id: "j1",
  disk: "vm1",
  state: "running",
  offset: 0,
  length: 1024,
  localBytes: 24,
  missingBytes: 1000,
  copiedBytes: 24,
  rate: 10,
  priority: 0,
  createdAt: 1,
};
export const DISK: Disk = {
  id: "d1",
  name: "vm1",
  state: "ready",
  image: "/images/vm1.qcow2",
  readOnly: false,
  copyOnRead: true,
  onSourceError: { holdMs: null, afterwards: "error" },
  address: { kind: "unix", path: "/run/vm1.sock" },
  length: 1024,
  missingBytes: 1000,
  fetchedBytes: 24,
  source: { state: "ok", held: 3 },
  stream: JOB,
  warnings: [],
  createdAt: 1,
};
export const LIVE: Live = {
  fetched: [0, 512],
  read: [],
  written: [],
  zeroed: [],
  inFlight: [512, 512],
  waiting: [],
  inexact: false,
  source: { state: "ok", held: 0 },
  clients: 1,
};
const DOMAIN: Domain = {
  name: "web",
  qmp: "/run/web.qmp",
  state: "running",
  disks: [{ name: "web:vda", target: "vda", device: "disk" }],
  createdAt: 1,
};
const DEPLOYMENT: Deployment = {
  ...{ name: "vm1", state: "ready", image: "/images/base.qcow2", source: "image-base.qcow2-0a1b2c3d", owner: "engine" },
  ...{ disk: "vm1-vda", overlay: "/images/vm1-vda.qcow2", format: "qcow2", hydrated: false, stream: JOB },
  ...{ steps: [{ name: "source", ms: 12 }], createdAt: 1 },
};
const EXPORT: NbdExportView = {
  name: "base",
  image: "/images/base.raw",
  readOnly: true,
  address: { kind: "tcp", host: "127.0.0.1", port: 10809 },
  onSourceError: { holdMs: 30_000, afterwards: "error" },
  clients: 0,
  createdAt: 1,
};

export interface FakeService extends Service {
  /** What was asked, with the input after its checks. */
  /** What each call was given, whatever call that is. */
  readonly calls: { readonly name: RouteName; readonly input: Readonly<Record<"params" | "query" | "body", object>> }[];
  /** Thrown by, or awaited before, every answer. */
  before: (name: RouteName) => Promise<void> | void;
}

export function fakeService(): FakeService {
  const fake = { calls: [], before: () => {} } as unknown as FakeService;
  const answer = <N extends RouteName>(name: N, result: Awaited<ReturnType<Service[N]>>) => ({
    [name]: async (input: CheckedInput<RouteName>) => {
      fake.calls.push({ name, input });
      await fake.before(name);
      return result;
    },
  });
  const daemon = { version: "9.9.9", node: "v24", startedAt: 1, disks: 1, streams: 1, maxStreams: 4 };
  return Object.assign(
    fake,
    answer("daemon", { ...daemon, imageDirectory: "/images" }),
    answer("listDisks", { disks: [DISK] }),
    ...(["createDisk", "getDisk", "resizeDisk", "replaceSource"] as const).map((name) => answer(name, DISK)),
    ...(
      [
        "addDomain",
        "getDomain",
        "pauseDomain",
        "resumeDomain",
        "resetDomain",
        "stopDomain",
        "runMachine",
        "startDomain",
      ] as const
    ).map((name) => answer(name, DOMAIN)),
    answer("listDomains", { domains: [DOMAIN] }),
    answer("domainXml", { xml: "<domain/>" }),
    answer("domainDisk", { ...DOMAIN.disks[0]!, length: 1024, localBytes: 24, missingBytes: 1000, hydrated: false }),
    answer("attachDisk", DOMAIN.disks[0]!),
    answer("detachDisk", undefined),
    answer("replaceDomainSource", { ...DOMAIN.disks[0]!, compared: 512, warnings: [] }),
    ...(["deploy", "getDeployment"] as const).map((name) => answer(name, DEPLOYMENT)),
    answer("listDeployments", { deployments: [DEPLOYMENT] }),
    ...(["deleteDisk", "removeExport", "removeDomain", "undeploy"] as const).map((name) => answer(name, undefined)),
    ...(["diskClients", "exportClients"] as const).map((name) => answer(name, { clients: [] })),
    answer("setPolicy", { onSourceError: { holdMs: null, afterwards: "error" }, warnings: [] }),
    answer("diskLoad", { samples: [] }),
    answer("diskMap", { runs: [], next: 512 }),
    answer("diskCells", { offset: 0, cellLength: 512, local: "/w==", missing: "AA==", complete: true }),
    answer("diskLive", LIVE),
    ...(["startStream", "streamInfo", "pauseStream", "resumeStream", "cancelStream", "setSpeed"] as const).map((name) =>
      answer(name, JOB),
    ),
    answer("stepStream", { next: 512, copied: 512, done: false }),
    answer("listJobs", { jobs: [JOB] }),
    answer("listExports", { exports: [EXPORT] }),
    answer("addExport", EXPORT),
    answer("listSources", { sources: [] }),
    ...(["listLimits", "setLimit"] as const).map((name) => answer(name, { limits: [] })),
    answer("listEvents", { events: [] }),
  );
}

/** What goes on in any disk: the same as ever, once. */
export async function* fakeWatch(): AsyncGenerator<Live, void, undefined> {
  yield LIVE;
}

/** Events in memory. */
export class FakeFeed implements EventFeed {
  readonly all: EventRecord[] = [];
  #wake = Promise.withResolvers<void>();
  /** Followers that are there now. */
  following = 0;

  add(disk?: string): EventRecord {
    const event: EventRecord = {
      id: this.all.length + 1,
      time: 1,
      type: "disk-changed",
      message: `Event ${this.all.length + 1}`,
      ...(disk !== undefined && { disk }),
    };
    this.all.push(event);
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
    return event;
  }

  async newest(): Promise<number> {
    return this.all.length;
  }

  async events({ after = 0, limit }: EventQuery): Promise<EventRecord[]> {
    return this.all.slice(after, after + limit);
  }

  async *follow(after: number, signal: AbortSignal): AsyncGenerator<EventRecord, void, undefined> {
    this.following += 1;
    try {
      const aborted = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
      for (let last = after; !signal.aborted; ) {
        const woken = this.#wake.promise;
        const event = this.all[last];
        if (event === undefined) await Promise.race([woken, aborted]);
        else {
          yield event;
          last += 1;
        }
      }
    } finally {
      this.following -= 1;
    }
  }
}
