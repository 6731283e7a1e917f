/**
 * Domains: virtual machines, by their QMP sockets or through libvirt; who runs them is not looked at here. What is remembered is how to
 * reach them; what they have is asked of QEMU or libvirt, or stands in the XML that they were added with, or is what they were made of. A
 * disk is given to the job runner with its first order, and after a restart of the daemon as soon as its QEMU answers.
 */
import { randomUUID } from "node:crypto";
import { isAbsolute } from "node:path";
import { systemClock } from "../block/index.ts";
import {
  type DomainDescription,
  type DomainMap,
  describeDomain,
  describeMachine,
  findDisk,
  hotPlugged,
  LibvirtDomain,
  parseDomainXml,
  RunningDomain,
} from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { type DomainRecord, type MachineRecord, type Store, UNFINISHED_STATES } from "../jobs/index.ts";
import { DomainDisk, mayComeBack } from "./domain-disk.ts";
import type { DomainGuards } from "./domain-guards.ts";
import { domainPlaces } from "./domain-needs.ts";
import type { EventHub } from "./event-hub.ts";
import type { JobRunner } from "./job-runner.ts";
import type { SourceNeeds } from "./source-needs.ts";
import type { StreamedDiskInfo } from "./streamed-disk.ts";
import { Turns } from "./turns.ts";

export interface HeldDomain {
  record: DomainRecord;
  readonly running: RunningDomain;
  /** Of one that libvirt runs. */
  readonly libvirt: LibvirtDomain | undefined;
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

/** One that is to be added, by its socket or by libvirt. */
export interface NewDomain {
  readonly name: string;
  readonly qmp?: string | undefined;
  readonly xml?: string | undefined;
  readonly libvirt?: { readonly name: string; readonly connect?: string | undefined } | undefined;
}

export interface DomainsParts {
  readonly store: Store;
  readonly events: EventHub;
  readonly runner: JobRunner;
  readonly needs: SourceNeeds;
  readonly guards: DomainGuards;
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
    const targets = new Map(records.map((record) => [this.#hold(record), new Set<string>()]));
    for (const { disk } of await this.#parts.store.jobs({ states: UNFINISHED_STATES, limit: ALL })) {
      const [, domain, target, id] = /^([^:@]+):([^@]+)@(.+)$/.exec(disk) ?? [];
      const held = this.#byName.get(domain ?? "");
      if (held !== undefined && target !== undefined && held.record.id === id) targets.get(held)?.add(target);
    }
    for (const [held, streamed] of targets) void this.#takeUpWhenThere(held, streamed);
  }

  /** Adds one that runs: it must answer. */
  async add(order: NewDomain): Promise<HeldDomain> {
    const { name } = order;
    if (this.#byName.has(name)) throw new StreamdiskError("exists", `There is another domain of the name '${name}'`);
    const record = { id: randomUUID(), name, ...reachOf(order), createdAt: Date.now() };
    const held = makeHeld(record);
    try {
      await this.describe(held);
      await held.running.qmp.execute("query-status", {});
      await this.#parts.store.addDomain(record);
    } catch (error) {
      await held.running[Symbol.asyncDispose]();
      throw error;
    }
    this.#byName.set(name, held);
    this.#parts.guards.begin(held);
    this.#parts.needs.hold(needOf(name), undefined);
    await this.#look(held);
    const where = held.running.qmp.name;
    await this.#parts.events.tell("domain-added", `The domain '${name}' was added: its QEMU is at '${where}'`);
    return held;
  }

  /** Takes up one that may not run yet. @throws {StreamdiskError} `exists` */
  async define(record: DomainRecord): Promise<HeldDomain> {
    const { name } = record;
    if (this.#byName.has(name)) throw new StreamdiskError("exists", `There is another domain of the name '${name}'`);
    await this.#parts.store.addDomain(record);
    return this.#hold(record);
  }

  /** Remembers something else of a domain. What is made of the record there is, is in its place at once. */
  async change(held: HeldDomain, change: (record: DomainRecord) => DomainRecord): Promise<void> {
    held.record = change(held.record);
    await this.#parts.store.putDomain(held.record);
  }

  /**
   * A machine of somebody else's runs on; streams of its disks end, and what was fetched stays.
   *
   * @param refuse throws when it must not be removed; nothing comes between it and the removal
   * @returns false when somebody else has removed it meanwhile
   */
  async remove(name: string, refuse?: () => void): Promise<boolean> {
    const held = this.demand(name);
    if (!(await this.forget(held, refuse))) return false;
    const rest = held.record.machine === undefined ? "its machine runs on" : "its images stay";
    await this.#parts.events.tell("domain-removed", `The domain '${name}' was removed; ${rest}`);
    return true;
  }

  /** The same without a word. */
  async forget(held: HeldDomain, refuse?: () => void): Promise<boolean> {
    const { runner, store, needs, guards } = this.#parts;
    const { name, id: own } = held.record;
    return await held.turns.run(async () => {
      // There may be another of its name already.
      if (this.#byName.get(name) !== held) return false;
      refuse?.();
      // Also those of disks that could not be attached yet.
      for (const id of runner.disks.filter((id) => id.endsWith(`@${own}`))) {
        // It may have come to its end while another was waited for.
        if (runner.active(id) !== undefined) await runner.cancel(id, "Its domain was removed; what was fetched stays");
      }
      for (const target of held.disks.keys()) await runner.detach(diskId(held, target), "Its domain was removed");
      await guards.end(held);
      await needs.release(needOf(name));
      await store.deleteDomain(name);
      this.#byName.delete(name);
      await held.running[Symbol.asyncDispose]();
      return true;
    });
  }

  find(name: string): HeldDomain | undefined {
    return this.#byName.get(name);
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
  async describe(held: HeldDomain): Promise<DomainDescription> {
    const { machine } = held.record;
    const { running } = held;
    const found = await (machine === undefined ? describeOther(held) : describeOwn(held, machine));
    running.description = { ...found, name: held.record.name };
    return running.description;
  }

  /**
   * A disk by the names that its user knows. QEMU is asked only for one that was not seen yet; when it is away, such a name is taken
   * for the target.
   *
   * @param name `DOMAIN:DEVICE`
   */
  async disk(name: string): Promise<HeldDomainDisk> {
    const [, domain = "", device = ""] = /^([^:]*):(.*)$/s.exec(name) ?? [];
    const held = this.demand(domain);
    const seen = held.running.description.disks.filter(({ target, alias }) => target === device || alias === device);
    const target = seen.length === 1 ? seen[0]!.target : await this.#targetOf(held, device);
    return { id: diskId(held, target), target, held };
  }

  async #targetOf(held: HeldDomain, device: string): Promise<string> {
    try {
      return findDisk(await this.describe(held), device).target;
    } catch (error) {
      if (!mayComeBack(error)) throw error;
      return device.startsWith("/") ? findDisk(held.running.description, device).target : device;
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
    const disk = this.#diskOf(held, target);
    held.disks.set(target, disk);
    disk.on("hydrated", () => void this.#look(held));
    this.#parts.runner.attach(id, `${held.record.name}:${target}`, disk);
    return disk;
  }

  #diskOf(held: HeldDomain, target: string): DomainDisk {
    return new DomainDisk(held.running, target, {
      describe: () => this.describe(held),
      remembered: () => held.record.needs ?? [],
      onFallback: (why) => {
        void this.#parts.events.tell("stream-fallback", why, { disk: `${held.record.name}:${target}` });
      },
    });
  }

  /** How much of a disk is local, in its turn: what was put into QEMU for that is out of it again. */
  look(held: HeldDomain, target: string): Promise<StreamedDiskInfo> {
    const disk = held.disks.get(target) ?? this.#diskOf(held, target);
    return held.turns.run(() => disk.look());
  }

  /** Which ranges of a disk are local, in its turn. */
  async map(name: string, part: { readonly offset: number; readonly limit: number }): Promise<DomainMap> {
    const { held, target } = await this.disk(name);
    return held.turns.run(() => held.running.map(target, part));
  }

  /** Streams stop, and go on with the next start. */
  async close(): Promise<void> {
    this.#over.abort();
    // All at once: one whose monitor does not answer is waited for.
    await Promise.all(this.all().map((held) => this.#letGo(held)));
  }

  async #letGo(held: HeldDomain): Promise<void> {
    await this.#parts.guards.end(held);
    await Promise.all([...held.disks.values()].map((disk) => disk.cancelStream().catch(() => {})));
    await held.running[Symbol.asyncDispose]();
  }

  /** To be called when its QEMU runs anew. */
  started(held: HeldDomain): Promise<void> {
    this.#parts.guards.of(held).guard.look();
    return this.#look(held);
  }

  /** What its disks need has changed, or is there now. */
  async #look(held: HeldDomain): Promise<void> {
    try {
      const places = await domainPlaces(held.running);
      const told = await this.#parts.needs.learn(needOf(held.record.name), places);
      if (!told || JSON.stringify(held.record.needs) === JSON.stringify(places)) return;
      await this.change(held, (record) => ({ ...record, needs: places }));
    } catch {
      // Its QEMU does not answer: what is remembered counts.
    }
  }

  async #takeUpWhenThere(held: HeldDomain, targets: Iterable<string>): Promise<void> {
    if (!(await this.#whenThere(held))) return;
    for (const target of targets) this.#attach({ id: diskId(held, target), target, held });
    await this.#look(held);
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

  #hold(record: DomainRecord): HeldDomain {
    const held = makeHeld(record);
    this.#byName.set(record.name, held);
    this.#parts.needs.hold(needOf(record.name), record.needs, record.needs);
    this.#parts.guards.begin(held);
    return held;
  }
}

/** One that somebody else runs: what its XML says, and what was attached since. Of a QEMU that does not answer nothing more is known. */
async function describeOther({ record: { name, xml }, running, libvirt }: HeldDomain): Promise<DomainDescription> {
  if (xml === undefined && libvirt === undefined) return describeDomain(running.qmp, name);
  const described = xml === undefined ? await libvirt!.describe() : parseDomainXml(xml);
  const now = await describeDomain(running.qmp, described.name).catch(() => undefined);
  const attached = now?.disks.filter(({ alias }) => hotPlugged(alias) !== undefined) ?? [];
  return { ...described, disks: [...described.disks, ...attached] };
}

/** How one is reached, checked. */
function reachOf({ name, qmp, xml, libvirt }: NewDomain): Pick<DomainRecord, "qmp" | "xml" | "libvirt"> {
  if (libvirt !== undefined && qmp === undefined && xml === undefined) {
    return { libvirt: new LibvirtDomain(libvirt).address };
  }
  if (qmp === undefined || libvirt !== undefined) {
    const message = `The domain '${name}' is reached by its QMP socket, with or without XML, or by libvirt: give one of the two`;
    throw new StreamdiskError("invalid-argument", message, { node: name });
  }
  if (!isAbsolute(qmp)) throw new StreamdiskError("invalid-argument", `The path of a QMP socket is absolute: '${qmp}'`);
  return { qmp, ...(xml !== undefined && { xml }) };
}

function makeHeld(record: DomainRecord): HeldDomain {
  const { name, machine } = record;
  const libvirt = record.libvirt && new LibvirtDomain(record.libvirt);
  const description = machine === undefined ? { name, disks: [] } : describeMachine(machine.spec);
  const running = new RunningDomain({ qmp: libvirt?.monitor ?? record.qmp!, description });
  return { record, running, libvirt, turns: new Turns(), disks: new Map() };
}

/** By which a domain is known to need something; neither ids of disks nor exports are so. */
function needOf(name: string): string {
  return `domain ${name}`;
}

/** A machine that is made of known parts, also while its QEMU does not answer. */
async function describeOwn({ running }: HeldDomain, { spec, state }: MachineRecord): Promise<DomainDescription> {
  if (state === "stopped") return describeMachine(spec);
  try {
    return describeMachine(spec, await describeDomain(running.qmp, spec.name));
  } catch (error) {
    if (mayComeBack(error)) return describeMachine(spec);
    throw error;
  }
}

/** By which jobs are remembered: what it is called, and which domain that was. */
export function diskId({ record: { name, id } }: HeldDomain, target: string): string {
  return `${name}:${target}@${id}`;
}
