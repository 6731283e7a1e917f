/**
 * Domains: virtual machines that somebody else runs, by their QMP sockets. What is remembered is how to reach them; what they have is
 * asked of QEMU, or stands in the XML that they were added with. A disk is given to the job runner with its first order, and after a
 * restart of the daemon as soon as its QEMU answers.
 */
import { randomUUID } from "node:crypto";
import { isAbsolute } from "node:path";
import { systemClock } from "../block/index.ts";
import {
  type DomainDescription,
  describeDomain,
  findDisk,
  hotPlugged,
  parseDomainXml,
  RunningDomain,
} from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { type DomainRecord, type Store, UNFINISHED_STATES } from "../jobs/index.ts";
import { DomainDisk, mayComeBack } from "./domain-disk.ts";
import { domainPlaces } from "./domain-needs.ts";
import type { EventHub } from "./event-hub.ts";
import type { JobRunner } from "./job-runner.ts";
import type { SourceNeeds } from "./source-needs.ts";
import type { StreamedDiskInfo } from "./streamed-disk.ts";
import { Turns } from "./turns.ts";

export interface HeldDomain {
  record: DomainRecord;
  readonly running: RunningDomain;
  readonly turns: Turns;
  /** Those that the job runner has, by their targets. */
  readonly disks: Map<string, DomainDisk>;
}

/** A disk of a domain, by the name that the job runner and people know. */
export interface HeldDomainDisk {
  readonly id: string;
  readonly target: string;
  readonly held: HeldDomain;
}

export interface DomainsParts {
  readonly store: Store;
  readonly events: EventHub;
  readonly runner: JobRunner;
  readonly needs: SourceNeeds;
}

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;
const ALL = 1_000_000;

/** Whether a name is one of a domain's disk: `DOMAIN:DEVICE`. */
export function isDomainDisk(name: string): boolean {
  return name.includes(":");
}

export class Domains {
  readonly #parts: DomainsParts;
  readonly #byName = new Map<string, HeldDomain>();
  readonly #over = new AbortController();

  constructor(parts: DomainsParts) {
    this.#parts = parts;
  }

  /** In the order of their names. */
  all(): HeldDomain[] {
    return [...this.#byName.values()].sort((a, b) => (a.record.name < b.record.name ? -1 : 1));
  }

  /** Takes up the jobs that there were, each when its QEMU answers: waits for none of them. */
  async restore(records: readonly DomainRecord[]): Promise<void> {
    for (const record of records) this.#hold(record);
    for (const { disk } of await this.#parts.store.jobs({ states: UNFINISHED_STATES, limit: ALL })) {
      const [, domain, target, id] = /^([^:@]+):([^@]+)@(.+)$/.exec(disk) ?? [];
      const held = this.#byName.get(domain ?? "");
      if (held !== undefined && target !== undefined && held.record.id === id) void this.#attachWhenThere(held, target);
    }
    for (const held of this.all()) void this.#lookWhenThere(held);
  }

  /** Adds one that runs: it must answer. */
  async add(order: { readonly name: string; readonly qmp: string; readonly xml?: string }): Promise<HeldDomain> {
    const { name, qmp, xml } = order;
    if (this.#byName.has(name)) throw new StreamdiskError("exists", `There is another domain of the name '${name}'`);
    if (!isAbsolute(qmp))
      throw new StreamdiskError("invalid-argument", `The path of a QMP socket is absolute: '${qmp}'`);
    const createdAt = Date.now();
    const record = { id: randomUUID(), name, qmp, ...(xml !== undefined && { xml }), createdAt };
    const held = makeHeld(record);
    try {
      await this.describe(held);
      await held.running.qmp.execute("query-status", {});
      await this.#parts.store.addDomain(record);
    } catch (error) {
      held.running[Symbol.dispose]();
      throw error;
    }
    this.#byName.set(name, held);
    this.#parts.needs.hold(needOf(name), undefined);
    await this.#look(held);
    await this.#parts.events.tell("domain-added", `The domain '${name}' was added: its QEMU is at '${qmp}'`);
    return held;
  }

  /** Its machine runs on; streams of its disks end, and what was fetched stays. */
  async remove(name: string): Promise<void> {
    const held = this.demand(name);
    const { runner, store, events, needs } = this.#parts;
    await held.turns.run(async () => {
      for (const target of held.disks.keys()) {
        const id = diskId(held, target);
        if (runner.active(id) !== undefined) await runner.cancel(id, "Its domain was removed; what was fetched stays");
        await runner.detach(id, "Its domain was removed");
      }
      await needs.release(needOf(name));
      await store.deleteDomain(name);
      this.#byName.delete(name);
      held.running[Symbol.dispose]();
    });
    await events.tell("domain-removed", `The domain '${name}' was removed; its machine runs on`);
  }

  /** @throws {StreamdiskError} `not-found` with those that there are */
  demand(name: string): HeldDomain {
    const held = this.#byName.get(name);
    if (held !== undefined) return held;
    const there = this.all().map(({ record }) => record.name);
    const which = there.length === 0 ? "there are none: add one with domain add" : `there are ${there.join(", ")}`;
    throw new StreamdiskError("not-found", `There is no domain '${name}': ${which}`, { node: name });
  }

  /** What it has, from its XML, or from its QEMU as it is now. */
  async describe({ record, running }: HeldDomain): Promise<DomainDescription> {
    const { name, xml } = record;
    const found = xml === undefined ? await describeDomain(running.qmp, name) : await withAttached(running, xml);
    running.description = { ...found, name };
    return running.description;
  }

  /**
   * A disk by the names that its user knows. QEMU is asked only for one that was not seen yet; when it is away, such a name is taken
   * for the target.
   *
   * @param name `DOMAIN:DEVICE`
   */
  async disk(name: string): Promise<HeldDomainDisk> {
    const [domain = "", device = ""] = name.split(":", 2);
    const held = this.demand(domain);
    const seen = held.running.description.disks.filter(({ target, alias }) => target === device || alias === device);
    const target = seen.length === 1 ? seen[0]!.target : await this.#targetOf(held, device);
    return { id: diskId(held, target), target, held };
  }

  async #targetOf(held: HeldDomain, device: string): Promise<string> {
    try {
      return findDisk(await this.describe(held), device).target;
    } catch (error) {
      if (mayComeBack(error)) return device;
      throw error;
    }
  }

  /** Does something with a disk in its domain's turn; the job runner has it then. */
  async act<T>(name: string, act: (id: string, disk: DomainDisk) => Promise<T>): Promise<T> {
    const disk = await this.disk(name);
    return disk.held.turns.run(() => act(disk.id, this.#attach(disk)));
  }

  /** Does something with a disk while no stream of it runs; one that ran goes on afterwards. @param why a sentence */
  async aside<T>(name: string, why: string, act: (disk: HeldDomainDisk) => Promise<T>): Promise<T> {
    const { runner } = this.#parts;
    const disk = await this.disk(name);
    const { id, target, held } = disk;
    return held.turns.run(async () => {
      await runner.detach(id, why);
      try {
        return await act(disk);
      } finally {
        const streamed = held.disks.get(target);
        if (streamed !== undefined) runner.attach(id, `${held.record.name}:${target}`, streamed);
      }
    });
  }

  #attach({ id, target, held }: HeldDomainDisk): DomainDisk {
    const there = held.disks.get(target);
    if (there !== undefined) return there;
    const name = `${held.record.name}:${target}`;
    const disk = new DomainDisk(held.running, target, (why) => {
      void this.#parts.events.tell("stream-fallback", why, { disk: name });
    });
    held.disks.set(target, disk);
    disk.on("hydrated", () => void this.#look(held));
    this.#parts.runner.attach(id, name, disk);
    return disk;
  }

  /** How much of a disk is local, in its turn: what was put into QEMU for that is out of it again. */
  look(held: HeldDomain, target: string): Promise<StreamedDiskInfo> {
    const disk = held.disks.get(target) ?? new DomainDisk(held.running, target, () => {});
    return held.turns.run(() => disk.info());
  }

  /** Streams stop, and go on with the next start. */
  async close(): Promise<void> {
    this.#over.abort();
    for (const { disks, running } of this.all()) {
      await Promise.all([...disks.values()].map((disk) => disk.cancelStream().catch(() => {})));
      running[Symbol.dispose]();
    }
  }

  /** What its disks need has changed, or is there now. */
  async #look(held: HeldDomain): Promise<void> {
    try {
      const places = await domainPlaces(held.running);
      const told = await this.#parts.needs.learn(needOf(held.record.name), places);
      if (!told || JSON.stringify(held.record.needs) === JSON.stringify(places)) return;
      held.record = { ...held.record, needs: places };
      await this.#parts.store.putDomain(held.record);
    } catch {
      // Its QEMU does not answer: what is remembered counts.
    }
  }

  async #lookWhenThere(held: HeldDomain): Promise<void> {
    if (await this.#whenThere(held)) await this.#look(held);
  }

  async #attachWhenThere(held: HeldDomain, target: string): Promise<void> {
    if (await this.#whenThere(held)) this.#attach({ id: diskId(held, target), target, held });
  }

  /** Resolves when its QEMU answers; false when nobody wants to know any more. */
  async #whenThere(held: HeldDomain): Promise<boolean> {
    const { signal } = this.#over;
    for (let pause = FIRST_RETRY_MS; ; pause = Math.min(pause * 2, LONGEST_RETRY_MS)) {
      const there = await this.describe(held).then(
        () => true,
        (error) => !mayComeBack(error),
      );
      if (signal.aborted || this.#byName.get(held.record.name) !== held) return false;
      if (there) return true;
      await systemClock.sleep(pause, signal);
    }
  }

  #hold(record: DomainRecord): void {
    this.#byName.set(record.name, makeHeld(record));
    this.#parts.needs.hold(needOf(record.name), record.needs, record.needs);
  }
}

/** What its XML says, and what was attached since: of a QEMU that does not answer nothing more is known. */
async function withAttached({ qmp }: RunningDomain, xml: string): Promise<DomainDescription> {
  const described = parseDomainXml(xml);
  const now = await describeDomain(qmp, described.name).catch(() => undefined);
  const attached = now?.disks.filter(({ alias }) => hotPlugged(alias) !== undefined) ?? [];
  return { ...described, disks: [...described.disks, ...attached] };
}

function makeHeld(record: DomainRecord): HeldDomain {
  const description = { name: record.name, disks: [] };
  return { record, running: new RunningDomain({ qmp: record.qmp, description }), turns: new Turns(), disks: new Map() };
}

/** By which a domain is known to need something; neither ids of disks nor exports are so. */
function needOf(name: string): string {
  return `domain ${name}`;
}

/** By which jobs are remembered: what it is called, and which domain that was. */
function diskId({ record: { name, id } }: HeldDomain, target: string): string {
  return `${name}:${target}@${id}`;
}
