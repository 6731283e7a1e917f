/** The calls of the API that are about domains. */
import type { CheckedInput, Domain, Job, RouteResult } from "../api/index.ts";
import {
  type DomainDescription,
  describeMachine,
  findDisk,
  formatDomainXml,
  parseMachineXml,
} from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { hasEnded } from "../jobs/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import { sourceReplaced } from "./disk-stories.ts";
import type { Disks } from "./disks.ts";
import type { DomainControl } from "./domain-control.ts";
import type { DomainGuards } from "./domain-guards.ts";
import { domainDiskView, domainView, type StreamOf } from "./domain-views.ts";
import type { Domains, HeldDomain } from "./domains.ts";
import type { EventHub } from "./event-hub.ts";
import type { Machines } from "./machines.ts";

export interface DomainCallsParts {
  readonly domains: Domains;
  readonly disks: Disks;
  readonly machines: Machines;
  readonly guards: DomainGuards;
  readonly events: EventHub;
  readonly allowed: AllowedPaths;
  readonly options: DaemonOptions;
  /** The last stream of a disk, by the id under which its jobs are remembered. */
  readonly streamOf: (id: string) => Promise<Job | undefined>;
}

export class DomainCalls {
  readonly #parts: DomainCallsParts;
  readonly #domains: Domains;
  readonly #guards: DomainGuards;
  readonly #machines: Machines;
  readonly #streamOf: StreamOf;

  constructor(parts: DomainCallsParts) {
    const { domains, machines, streamOf } = parts;
    this.#guards = parts.guards;
    this.#parts = parts;
    this.#domains = domains;
    this.#machines = machines;
    this.#streamOf = async (name) => streamOf((await domains.disk(name)).id);
  }

  async list(): Promise<RouteResult<"listDomains">> {
    return { domains: await Promise.all(this.#domains.all().map((held) => this.#view(held))) };
  }

  async add(order: CheckedInput<"addDomain">["body"]): Promise<Domain> {
    return this.#view(await this.#domains.add(order));
  }

  async run({ xml, autostart }: CheckedInput<"runMachine">["body"]): Promise<Domain> {
    const spec = parseMachineXml(xml);
    return this.#view(await this.#machines.run({ spec, xml, ...(autostart !== undefined && { autostart }) }));
  }

  async start(name: string, { autostart }: CheckedInput<"startDomain">["body"]): Promise<Domain> {
    const held = this.#domains.demand(name);
    await this.#machines.start(held, autostart === undefined ? {} : { autostart });
    return this.#view(held);
  }

  show(name: string): Promise<Domain> {
    return this.#view(this.#domains.demand(name));
  }

  async remove(name: string): Promise<undefined> {
    const held = this.#domains.demand(name);
    if (held.record.machine === undefined) await this.#domains.remove(name);
    else await this.#machines.remove(held);
  }

  pause(name: string): Promise<Domain> {
    return this.#act(name, (control) => control.pause());
  }

  resume(name: string): Promise<Domain> {
    return this.#act(name, (control) => control.resume());
  }

  reset(name: string): Promise<Domain> {
    return this.#act(name, (control) => control.reset());
  }

  stop({ params, body }: Pick<CheckedInput<"stopDomain">, "params" | "body">): Promise<Domain> {
    return this.#act(params.domain, (control) => control.stop(body));
  }

  async #act(name: string, act: (control: DomainControl) => Promise<void>): Promise<Domain> {
    const held = this.#domains.demand(name);
    await act(this.#guards.of(held).control);
    return this.#view(held);
  }

  async xml(name: string): Promise<RouteResult<"domainXml">> {
    const held = this.#domains.demand(name);
    if (held.libvirt !== undefined) return { xml: await held.libvirt.xml() };
    return { xml: held.record.xml ?? formatDomainXml(await this.#domains.describe(held)) };
  }

  async disk({ domain, device }: CheckedInput<"domainDisk">["params"]): Promise<RouteResult<"domainDisk">> {
    const { held, target } = await this.#domains.disk(`${domain}:${device}`);
    const disk = findDisk(held.running.description, target);
    const view = await domainDiskView(held.record.name, disk, this.#streamOf);
    const now = this.#domains.look(held, target).catch((error: unknown) => lastKnown(view.stream, error));
    return { ...view, ...(await now) };
  }

  async attach({ params, body }: CheckedInput<"attachDisk">): Promise<RouteResult<"attachDisk">> {
    const { disks, events } = this.#parts;
    const held = this.#domains.demand(params.domain);
    const { uri, readOnly } = await disks.act(body.disk, async (served) => served);
    return held.turns.run(async () => {
      await this.#domains.describe(held);
      const target = await held.running.attach({ uri, readOnly }, body.target);
      this.#guards.of(held).guard.look();
      const name = `${held.record.name}:${target}`;
      await events.tell("disk-attached", `The disk '${body.disk}' was attached to the machine as '${name}'`, {
        disk: body.disk,
      });
      return domainDiskView(held.record.name, findDisk(await this.#domains.describe(held), target), this.#streamOf);
    });
  }

  async detach({ params: { domain, device } }: CheckedInput<"detachDisk">): Promise<undefined> {
    const held = this.#domains.demand(domain);
    await held.turns.run(async () => {
      const { guard } = this.#guards.of(held);
      await guard.withNothingHeld(() => held.running.detach(device));
      await this.#domains.describe(held);
    });
    await this.#parts.events.tell("disk-detached", `'${domain}:${device}' was taken out of the machine`);
  }

  async replaceSource({
    params: { domain, device },
    body: { backing: named, backingFormat, force },
  }: CheckedInput<"replaceDomainSource">): Promise<RouteResult<"replaceDomainSource">> {
    const { allowed, events, options } = this.#parts;
    const backing = await allowed.source(named);
    const why = "The source of its disk is replaced";
    return this.#domains.aside(`${domain}:${device}`, why, async ({ held, target }) => {
      const { sourceOptions } = options;
      // That takes its time, and a person may pause the machine meanwhile: the guard knows then.
      const order = { backing, backingFormat, force, allowBacking: allowed.backing, sourceOptions, goOn: false };
      const { guard } = this.#guards.of(held);
      // QEMU waits for the machine's requests before it changes what lies below them.
      const found = await guard.withNothingHeld(() => held.running.replaceSource(target, order));
      // What keeps it from that, it looks at again itself.
      await guard.mended().catch(() => {});
      guard.look();
      const { name } = held.record;
      const message = sourceReplaced(`${name}:${target}`, backing, found.compared);
      await events.tell("disk-changed", message, { disk: `${name}:${target}` });
      const disk = findDisk(await this.#domains.describe(held), target);
      return { ...(await domainDiskView(name, disk, this.#streamOf)), ...found, warnings: [...found.warnings] };
    });
  }

  /** What QEMU says now; of one that does not answer what libvirt says, or what is known. */
  async #view(held: HeldDomain): Promise<Domain> {
    const { running } = held;
    const { machine } = held.record;
    const process = this.#machines.process(held);
    if (machine !== undefined && process === undefined) {
      const state = machine.state === "running" ? "starting" : "stopped";
      return domainView(held.record, { state, description: describeMachine(machine.spec) }, this.#streamOf);
    }
    const own = process === undefined ? {} : { pid: process.pid };
    try {
      const description: DomainDescription = await this.#domains.describe(held);
      const state = await running.qmp.execute("query-status", {});
      const pause = state === "running" ? undefined : this.#guards.of(held).guard.pause;
      const { warnings } = this.#guards.of(held).guard;
      return await domainView(held.record, { state, description, pause, warnings, ...own }, this.#streamOf);
    } catch (failure) {
      const error = failure instanceof StreamdiskError ? failure : new StreamdiskError("io", String(failure));
      const { description } = running;
      const state = (await held.libvirt?.state().catch(() => undefined)) ?? "unreachable";
      return domainView(held.record, { state, description, error, ...own }, this.#streamOf);
    }
  }
}

/** How far a stream was that waits until a disk can be looked at again. @throws the error, if none does */
function lastKnown(stream: Job | undefined, error: unknown) {
  if (stream === undefined || hasEnded(stream) || !(error instanceof StreamdiskError) || !error.row.retryable)
    throw error;
  const { length, localBytes, missingBytes } = stream;
  const { code, message } = error;
  return { length, localBytes, missingBytes, hydrated: false, error: { code, message } };
}
