/**
 * The daemon: what it remembers (a `Store`), the disks and exports that it has open, the streams that run. It answers the calls of the
 * API; how they come to it is not its business.
 *
 * Order of a start: disks and exports, on the sockets that they had, several at once, and none waits for another that fails; when
 * each has been tried, or has had its time, the jobs of those that are open, and of the others when they are; then machines that start with their host. Order of an end: no new streams, then disks and exports (clients
 * first, then what feeds them, then the image), then what is left to remember.
 *
 * After kill -9 nothing is lost that was acknowledged: the images keep what guests wrote (see docs/durability.md), and every act that
 * has more than one step is written down before the first (see disks.ts).
 */
import type { CheckedInput, Live, RouteResult, Service } from "../api/index.ts";
import { systemClock, within } from "../block/index.ts";
import type { DiskLive } from "../engine/index.ts";
import { type RebaseResult, rebaseImage } from "../image/index.ts";
import type { EventFeed, Store } from "../jobs/index.ts";
import { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import { DeploymentCalls } from "./deployment-calls.ts";
import { listDisks } from "./disk-list.ts";
import { Disks, type DisksParts, type HeldDisk } from "./disks.ts";
import { DomainCalls } from "./domain-calls.ts";
import { DomainGuards } from "./domain-guards.ts";
import { domainMapView } from "./domain-views.ts";
import { Domains, isDomainDisk } from "./domains.ts";
import { EventHub } from "./event-hub.ts";
import { Exports } from "./exports.ts";
import { clientsOf, exportNow } from "./hosted-views.ts";
import { JobRunner } from "./job-runner.ts";
import { type Log, noLog } from "./log.ts";
import { Machines } from "./machines.ts";
import { PolicyCalls } from "./policy-calls.ts";
import { servedSources } from "./served-sources.ts";
import { sourceAnswers } from "./source-answers.ts";
import { sourcesOf } from "./source-list.ts";
import { SourceNeeds } from "./source-needs.ts";
import { limitChanged, SpeedLimits } from "./speed-limits.ts";
import { StreamCalls } from "./stream-calls.ts";
import { StreamShares } from "./stream-shares.ts";
import { cellsView, diskView, jobView, liveView } from "./views.ts";

type Input<N extends keyof Service> = CheckedInput<N>;
type Result<N extends keyof Service> = Promise<RouteResult<N>>;

/** How long a start waits for images that have no answer yet: the others are served meanwhile, and these when they can be. */
const PATIENCE_MS = 5_000;

interface DaemonParts {
  readonly allowed: AllowedPaths;
  readonly limits: SpeedLimits;
  readonly log: Log;
}

export class Daemon implements Service, AsyncDisposable {
  readonly #store: Store;
  readonly #options: DaemonOptions;
  readonly #events: EventHub;
  readonly #limits: SpeedLimits;
  readonly #shares: StreamShares;
  readonly #runner: JobRunner;
  readonly #disks: Disks;
  readonly #exports: Exports;
  readonly #domains: Domains;
  readonly #machines: Machines;
  readonly #domainCalls: DomainCalls;
  readonly #policies: PolicyCalls;
  readonly #streams: StreamCalls;
  readonly #deployments: DeploymentCalls;
  readonly #allowed: AllowedPaths;
  readonly #startedAt = Date.now();
  #restoring: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(store: Store, options: DaemonOptions, { allowed, limits, log }: DaemonParts) {
    this.#store = store;
    this.#options = options;
    this.#allowed = allowed;
    const events = new EventHub(store, log, options.keep);
    this.#events = events;
    this.#limits = limits;
    this.#shares = new StreamShares(limits, systemClock);
    this.#runner = new JobRunner({
      ...{ store, events, log, maxStreams: options.maxStreams, shares: this.#shares },
      onHydrated: (disk) => this.#deployments.onHydrated(disk),
      behind: (place) => this.#exports.behind(place),
    });
    const needs = new SourceNeeds(events, (place) => allowed.isOwn(place));
    const reserved: DisksParts["reserved"] = (name, image) => this.#deployments.reserved(name, image);
    this.#disks = new Disks({ store, events, needs, allowed, options, runner: this.#runner, reserved });
    this.#exports = new Exports({ store, events, needs, allowed, options });
    const guards = new DomainGuards({
      events,
      change: (held, change) => this.#domains.change(held, change),
      describe: (held) => this.#domains.describe(held),
      sources: () => servedSources(this.#disks.all(), this.#exports.all()),
      machines: () => this.#machines,
      answers: (uri) => sourceAnswers(uri, allowed, options.sourceOptions),
    });
    this.#domains = new Domains({ store, events, needs, guards, runner: this.#runner });
    const [runner, disks, domains] = [this.#runner, this.#disks, this.#domains];
    this.#streams = new StreamCalls({ store, runner, disks, domains, allowed, options });
    this.#machines = new Machines({ domains, events, allowed, options });
    const machines = this.#machines;
    const [exports, streams] = [this.#exports, this.#streams];
    const served = { disks, exports, domains, guards, machines, streams };
    this.#deployments = new DeploymentCalls({ store, events, allowed, options, log, ...served });
    this.#policies = new PolicyCalls({ store, events, disks, exports, domains, guards });
    const streamOf = (id: string) => this.#streams.of(id);
    this.#domainCalls = new DomainCalls({ domains, guards, disks, machines, events, allowed, options, streamOf });
  }

  /**
   * Starts a daemon on what it remembers.
   *
   * @param store closed with the daemon
   */
  static async start(store: Store, options: DaemonOptions, log: Log = noLog): Promise<Daemon> {
    const allowed = await AllowedPaths.of(options);
    const limits = await SpeedLimits.of(options, store);
    const daemon = new Daemon(store, options, { allowed, limits, log });
    try {
      await daemon.#start();
    } catch (error) {
      // Threads that serve disks would keep the process alive.
      await daemon.close().catch(() => {});
      throw error;
    }
    return daemon;
  }

  async #start(): Promise<void> {
    await this.#runner.load();
    const [disks, exports] = await Promise.all([this.#store.disks(), this.#store.exports()]);
    const what = `${disks.length} disks and ${exports.length} exports are served again, then streams go on`;
    void this.#events.tell("daemon-started", `The daemon ${this.#options.version} has started: ${what}`);
    for (const { message, disk } of this.#options.damage ?? []) {
      void this.#events.tell("store-damaged", message, { ...(disk !== undefined && { disk }) });
    }
    await this.#domains.restore(await this.#store.domains());
    const machines = this.#machines.restore();
    this.#deployments.load(await this.#store.deployments());
    const served = Promise.all([this.#disks.restore(disks), this.#exports.restore(exports)]);
    this.#restoring = Promise.all([served, machines]).then(() => this.#deployments.restore());
    await within(this.#restoring, PATIENCE_MS);
    await machines;
    this.#runner.begin();
    this.#machines.autostart();
  }

  /** What happens, for those who look on. */
  get feed(): EventFeed {
    return this.#events;
  }

  /** Lets guests finish, closes all images clean, and remembers how far it was. Everything goes on with the next start. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#runner.stop();
    await this.#machines.close();
    await Promise.all([this.#disks.close(), this.#exports.close(), this.#domains.close()]);
    await this.#restoring.catch(() => {});
    await this.#events.tell(
      "daemon-stopped",
      "The daemon has ended in order: it goes on where it was when it is started again",
    );
    await this.#runner.settled();
    await this.#store.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async daemon(_input: Input<"daemon">): Result<"daemon"> {
    const { version, maxStreams, imageDirectory, damage = [] } = this.#options;
    return {
      version,
      node: process.version,
      startedAt: this.#startedAt,
      disks: this.#disks.all().length,
      streams: this.#runner.running,
      maxStreams,
      imageDirectory,
      ...(damage.length > 0 && { damage: damage.map(({ message }) => message) }),
    };
  }

  listDisks({ query }: Input<"listDisks">): Result<"listDisks"> {
    return listDisks(this.#disks.all(), query, (ids) => this.#streams.ofEach(ids));
  }

  async createDisk({ body }: Input<"createDisk">): Result<"createDisk"> {
    return this.#view(await this.#disks.create(body));
  }

  async getDisk({ params }: Input<"getDisk">): Result<"getDisk"> {
    return this.#view(this.#disks.demand(params.disk));
  }

  async deleteDisk({ params, query }: Input<"deleteDisk">): Result<"deleteDisk"> {
    this.#deployments.refuseDisk(params.disk);
    await this.#disks.delete(params.disk, query.deleteFile);
  }

  async diskMap({ params, query }: Input<"diskMap">): Result<"diskMap"> {
    if (isDomainDisk(params.disk)) return domainMapView(await this.#domains.map(params.disk, query));
    const { served } = this.#disks.demand(params.disk).host;
    const { entries, next } = await (served === undefined
      ? this.#disks.act(params.disk, (opened) => opened.mapPage(query))
      : served.mapPage(query));
    return { runs: [...entries], ...(next !== undefined && { next }) };
  }

  async diskClients({ params }: Input<"diskClients">): Result<"diskClients"> {
    return clientsOf(this.#disks.demand(params.disk).host);
  }

  async diskLoad({ params, query }: Input<"diskLoad">): Result<"diskLoad"> {
    const samples = await this.#disks.demand(params.disk).host.served?.load(query);
    return { samples: [...(samples ?? [])] };
  }

  async diskCells({ params, query: { length, ...query } }: Input<"diskCells">): Result<"diskCells"> {
    const part = { ...query, ...(length !== undefined && { length }) };
    const { served } = this.#disks.demand(params.disk).host;
    return cellsView(await (served?.cells(part) ?? this.#disks.act(params.disk, (opened) => opened.cells(part))));
  }

  diskLive({ params }: Input<"diskLive">): Result<"diskLive"> {
    return this.#disks.act(params.disk, async (served, held) => this.#liveNow(held, await served.live()));
  }

  /** What goes on in a disk, until the signal aborts or the disk is closed. */
  async *watch(name: string, signal: AbortSignal): AsyncGenerator<Live, void, undefined> {
    const held = this.#disks.demand(name);
    for await (const live of held.host.served?.watch(signal) ?? []) yield this.#liveNow(held, live);
  }

  #liveNow({ record: { id } }: HeldDisk, live: DiskLive): Live {
    const active = this.#runner.active(id);
    return liveView(live, active && jobView(active.record, active.pulse));
  }

  async resizeDisk({ params, body }: Input<"resizeDisk">): Result<"resizeDisk"> {
    await this.#disks.resize(params.disk, body.length, body.shrink);
    return this.getDisk({ params, query: {}, body: {} });
  }

  async replaceSource({ params, body }: Input<"replaceSource">): Result<"replaceSource"> {
    const held = this.#disks.demand(params.disk);
    const backing = await this.#allowed.source(body.backing);
    const { backingFormat, force } = body;
    const { sourceOptions } = this.#options;
    let found: Pick<RebaseResult, "compared" | "warnings"> = { compared: 0, warnings: [] };
    await this.#disks.reopened(held, async ({ settings: all, backingLength, known = [] }) => {
      const { backing: _old, backingFormat: _oldFormat, ...settings } = all;
      found = await rebaseImage(settings.image, {
        backing,
        force,
        allowBacking: this.#allowed.backing,
        sourceOptions,
        remembered: { length: backingLength, sources: known },
        ...(settings.format !== undefined && { format: settings.format }),
        ...(backingFormat !== undefined && { backingFormat }),
      });
      return { ...settings, backing, ...(backingFormat !== undefined && { backingFormat }) };
    });
    await this.#disks.stories.sourceReplaced(params.disk, backing, found.compared);
    const view = await this.#view(held);
    return { ...view, warnings: [...new Set([...found.warnings, ...view.warnings])] };
  }

  readonly setPolicy = (input: Input<"setPolicy">) => this.#policies.set(input);
  readonly startStream = (input: Input<"startStream">) => this.#streams.start(input);
  readonly stepStream = (input: Input<"stepStream">) => this.#streams.step(input);
  readonly streamInfo = (input: Input<"streamInfo">) => this.#streams.info(input);
  readonly pauseStream = (input: Input<"pauseStream">) => this.#streams.pause(input);
  readonly resumeStream = (input: Input<"resumeStream">) => this.#streams.resume(input);
  readonly cancelStream = (input: Input<"cancelStream">) => this.#streams.cancel(input);
  readonly setSpeed = (input: Input<"setSpeed">) => this.#streams.setSpeed(input);
  readonly listJobs = (input: Input<"listJobs">) => this.#streams.list(input);

  async listExports(_input: Input<"listExports">): Result<"listExports"> {
    return { exports: await Promise.all(this.#exports.all().map(exportNow)) };
  }

  async addExport({ body }: Input<"addExport">): Result<"addExport"> {
    return exportNow(await this.#exports.add(body));
  }

  async exportClients({ params }: Input<"exportClients">): Result<"exportClients"> {
    return clientsOf(this.#exports.demand(params.export).host);
  }

  async removeExport({ params }: Input<"removeExport">): Result<"removeExport"> {
    this.#deployments.refuseExport(params.export);
    await this.#exports.remove(params.export);
  }

  readonly listDomains = () => this.#domainCalls.list();
  readonly addDomain = ({ body }: Input<"addDomain">) => this.#domainCalls.add(body);
  readonly runMachine = ({ body }: Input<"runMachine">) => this.#domainCalls.run(body);
  readonly startDomain = ({ params, body }: Input<"startDomain">) => this.#domainCalls.start(params.domain, body);
  readonly getDomain = ({ params }: Input<"getDomain">) => this.#domainCalls.show(params.domain);
  readonly pauseDomain = ({ params }: Input<"pauseDomain">) => this.#domainCalls.pause(params.domain);
  readonly resumeDomain = ({ params }: Input<"resumeDomain">) => this.#domainCalls.resume(params.domain);
  readonly resetDomain = ({ params }: Input<"resetDomain">) => this.#domainCalls.reset(params.domain);
  readonly stopDomain = (input: Input<"stopDomain">) => this.#domainCalls.stop(input);

  async removeDomain({ params }: Input<"removeDomain">): Result<"removeDomain"> {
    this.#deployments.refuseDomain(params.domain);
    await this.#domainCalls.remove(params.domain);
  }

  readonly domainXml = ({ params }: Input<"domainXml">) => this.#domainCalls.xml(params.domain);
  readonly replaceDomainSource = (input: Input<"replaceDomainSource">) => this.#domainCalls.replaceSource(input);
  readonly attachDisk = (input: Input<"attachDisk">) => this.#domainCalls.attach(input);
  readonly detachDisk = (input: Input<"detachDisk">) => this.#domainCalls.detach(input);
  readonly domainDisk = ({ params }: Input<"domainDisk">) => this.#domainCalls.disk(params);

  readonly listDeployments = () => this.#deployments.list();
  readonly getDeployment = (input: Input<"getDeployment">) => this.#deployments.show(input);
  readonly deploy = (input: Input<"deploy">) => this.#deployments.deploy(input);
  readonly undeploy = (input: Input<"undeploy">) => this.#deployments.undeploy(input);

  async listSources(_input: Input<"listSources">): Result<"listSources"> {
    const users = { disks: this.#disks.all(), exports: this.#exports.all(), domains: this.#domains.all() };
    return { sources: await sourcesOf({ ...users, sockets: this.#options.socketDirectory }, this.#limits) };
  }

  async listLimits(_input: Input<"listLimits">): Result<"listLimits"> {
    return { limits: this.#limits.views };
  }

  async setLimit({ body: { place, speed } }: Input<"setLimit">): Result<"setLimit"> {
    const changed = await this.#limits.set(place, speed);
    await this.#shares.divide();
    await this.#events.tell("limit-changed", limitChanged(changed));
    return { limits: this.#limits.views };
  }

  async listEvents({ query }: Input<"listEvents">): Result<"listEvents"> {
    const { after = 0, disk, limit } = query;
    return { events: await this.#events.events({ after, limit, ...(disk !== undefined && { disk }) }) };
  }

  async #view({ record, host }: HeldDisk): Result<"getDisk"> {
    const asked = host.served?.info().catch(() => undefined);
    const [info, stream] = await Promise.all([asked, this.#streams.of(record.id)]);
    return diskView(record, { info, error: host.error, stream });
  }
}
