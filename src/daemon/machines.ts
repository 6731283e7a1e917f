/**
 * Machines: domains that the daemon runs itself. QEMU lives apart from it, in a directory of its own for each machine, and is found there
 * again by a daemon that comes back; nothing about the guest changes by that.
 *
 * What is to be is written down before it is begun: a machine is `running` from before QEMU is launched until its end was seen, which
 * is written down with its reason. A machine that ends stays ended, whatever the reason. One that runs when its host goes down,
 * or was taken down with it, starts again with the host when it is to (`autostart`), as soon as disks and exports are served.
 */
import { randomUUID } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "../block/index.ts";
import {
  findMachine,
  isRunning,
  isWaitedFor,
  launchMachine,
  type MachinePaths,
  type MachineProcess,
  machineEndReason,
  machinePaths,
  prepareMachine,
  readMachineEnd,
  trimLog,
  wakeEnding,
} from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { bootId } from "../host/index.ts";
import type { MachineEndRecord, MachineRecord, MachineSpec } from "../jobs/index.ts";
import { allowedMachine } from "./allowed-machine.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import type { Domains, HeldDomain } from "./domains.ts";
import type { EventHub } from "./event-hub.ts";

export interface MachinesParts {
  readonly domains: Domains;
  readonly events: EventHub;
  readonly allowed: AllowedPaths;
  readonly options: DaemonOptions;
}

export interface MachineOrder {
  readonly spec: MachineSpec;
  /** What it was made from, if it was that. */
  readonly xml?: string;
  /** Id of the deployment whose machine it is. */
  readonly deployment?: string;
  /** @default as it was, and for a new one false */
  readonly autostart?: boolean;
}

/** A machine that runs, and the word of its end. */
interface Watched {
  readonly process: MachineProcess;
  /** Resolves when its end is written down, or the daemon closes. */
  readonly over: Promise<void>;
}

const WATCH_MS = 2000;
/** How long a machine that was being launched when the daemon died may take to write down its pid. */
const LAUNCHING_MS = 10_000;
const POLL_MS = 200;
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 60_000;

export class Machines {
  readonly #parts: MachinesParts;
  readonly #bootId: string | undefined;
  readonly #watched = new Map<HeldDomain, Watched>();
  readonly #over = new AbortController();

  constructor(parts: MachinesParts) {
    this.#parts = parts;
    this.#bootId = parts.options.bootId ?? bootId();
  }

  /** The process of a machine that runs; undefined for one that does not, and for domains of others. */
  process(held: HeldDomain): MachineProcess | undefined {
    return this.#watched.get(held)?.process;
  }

  paths(name: string): MachinePaths {
    return machinePaths(join(this.#parts.options.machineDirectory, name));
  }

  /**
   * Makes a machine, or makes one that does not run anew, and starts it. One that is new and does not start is forgotten again.
   *
   * @throws {StreamdiskError} `exists` for the name of another's domain; as {@link start}
   */
  async run({ spec, xml, deployment, autostart }: MachineOrder): Promise<HeldDomain> {
    const { domains } = this.#parts;
    const { name } = spec;
    const paths = this.paths(name);
    const there = domains.find(name);
    if (there === undefined) {
      const machine: MachineRecord = { spec, autostart: autostart ?? false, state: "stopped" };
      const of = { ...(xml !== undefined && { xml }), ...(deployment !== undefined && { deployment }) };
      const record = { id: randomUUID(), name, qmp: paths.qmp, ...of, machine };
      const held = await domains.define({ ...record, createdAt: Date.now() });
      try {
        await this.start(held);
        return held;
      } catch (error) {
        // The next daemon finds out what became of it.
        if (this.#over.signal.aborted) throw error;
        // Nor one that somebody else has started since.
        const forgotten = await domains.forget(held, () => {
          if (this.process(held) !== undefined) throw error;
        });
        if (forgotten) await this.#removeFiles(held);
        throw error;
      }
    }
    await there.turns.run(async () => {
      const machine = this.#demandStopped(there);
      const { xml: _xml, ...record } = there.record;
      const changed = { ...machine, spec, autostart: autostart ?? machine.autostart };
      await domains.change(there, () => ({ ...record, ...(xml !== undefined && { xml }), machine: changed }));
      await domains.describe(there);
    });
    await this.start(there);
    return there;
  }

  /**
   * Starts a machine that is known.
   *
   * @throws {StreamdiskError} `in-use` when it runs; `refused` for a domain of another, a place that is not allowed, and with what QEMU
   *   refuses; as `prepareMachine` and `launchMachine` say
   */
  start(held: HeldDomain, options: { readonly autostart?: boolean } = {}): Promise<void> {
    return held.turns.run(() => this.#start(held, options));
  }

  async #start(held: HeldDomain, { autostart }: { readonly autostart?: boolean }): Promise<void> {
    const { allowed, domains, options, events } = this.#parts;
    const { name } = held.record;
    if (domains.find(name) !== held) {
      throw new StreamdiskError("not-found", `The domain '${name}' was removed meanwhile`, { node: name });
    }
    const machine = this.#demandStopped(held);
    const { emulator, accelerator, sourceOptions } = options;
    const spec = await allowedMachine(machine.spec, allowed, options);
    const host = { emulator, accelerator, sourceOptions, allowBacking: allowed.backing };
    const prepared = await prepareMachine(spec, host);
    const { end: _end, stopping: _stopping, ...rest } = machine;
    const before = { ...rest, ...(autostart !== undefined && { autostart }) };
    await this.#change(held, {
      ...before,
      ...{ state: "running", startedAt: Date.now(), accelerator: prepared.accelerator },
      ...(this.#bootId !== undefined && { bootId: this.#bootId }),
    });
    const { signal } = this.#over;
    const launched = launchMachine(prepared, this.paths(name), { qmp: held.running.qmp, signal });
    const process = await launched.catch(async (error: Error) => {
      // The next daemon finds out what became of it.
      if (signal.aborted) throw error;
      const end = { reason: `it did not start: ${error.message}`, onPurpose: false, at: Date.now() };
      await this.#change(held, { ...before, state: "stopped", end });
      throw error;
    });
    this.#watch(held, process);
    await domains.started(held);
    const how = prepared.accelerator === "kvm" ? "KVM" : "TCG, which emulates its processor and is slow";
    await events.tell("domain-started", `The domain '${name}' was started (pid ${process.pid}, by ${how})`);
  }

  /**
   * To be called before anything is done that ends a machine on purpose: it does not start with its host again.
   *
   * @param is false when it would not end
   */
  async stopping(held: HeldDomain, is = true): Promise<void> {
    const { stopping: _stopping, ...machine } = this.#machine(held);
    await this.#change(held, { ...machine, ...(is && { stopping: true }) });
  }

  /** Resolves when the end of a machine is written down; at once for one that does not run. */
  async ended(held: HeldDomain): Promise<void> {
    await this.#watched.get(held)?.over;
  }

  /** Takes away what is left of a machine that was removed: its logs. Its images stay. */
  async #removeFiles({ record: { name } }: HeldDomain): Promise<void> {
    await rm(this.paths(name).directory, { recursive: true, force: true });
  }

  /** Forgets a machine that does not run, with its logs. @throws {StreamdiskError} `in-use` while it runs */
  async remove(held: HeldDomain): Promise<void> {
    const { name } = held.record;
    const removed = await this.#parts.domains.remove(name, () => {
      const process = this.process(held);
      if (process === undefined) return;
      const message = `The machine '${name}' runs (pid ${process.pid}): stop it first, with domain stop`;
      throw new StreamdiskError("in-use", message, { node: name });
    });
    if (removed) await this.#removeFiles(held);
  }

  /** Finds the machines that ran when the daemon ended, and writes down how those ended that run no more. */
  async restore(): Promise<void> {
    const ran = this.#parts.domains.all().filter(({ record }) => record.machine?.state === "running");
    // What could not be found out or written down holds up nobody: the next daemon tries again.
    await Promise.all(ran.map((held) => this.#restoreOne(held).catch(() => {})));
  }

  async #restoreOne(held: HeldDomain): Promise<void> {
    const paths = this.paths(held.record.name);
    if (this.#machine(held).bootId !== this.#bootId) {
      return this.#written(held, { reason: "host rebooted", onPurpose: false });
    }
    const process = await this.#findOrWait(paths);
    if (process !== undefined) return this.#watch(held, process);
    await this.#written(held, machineEndReason(await readMachineEnd(paths)));
  }

  /** Waits for one whose launch was under way when the daemon died. */
  async #findOrWait(paths: MachinePaths): Promise<MachineProcess | undefined> {
    for (const until = systemClock.now() + LAUNCHING_MS; ; ) {
      const mayCome = await isWaitedFor(paths);
      const found = await findMachine(paths);
      if (found !== undefined || !mayCome || systemClock.now() >= until) return found;
      await systemClock.sleep(POLL_MS, this.#over.signal);
    }
  }

  /** Starts what is to start with its host; waits for nothing. To be called when disks and exports are served. */
  autostart(): void {
    for (const held of this.#parts.domains.all()) {
      const { machine } = held.record;
      if (machine === undefined || !machine.autostart || machine.state === "running") continue;
      if (machine.bootId === undefined || machine.bootId === this.#bootId) continue;
      if (machine.end?.onPurpose !== true) void this.#keepStarting(held);
    }
  }

  async #keepStarting(held: HeldDomain): Promise<void> {
    const { signal } = this.#over;
    for (let pause = FIRST_RETRY_MS; ; pause = Math.min(pause * 2, LONGEST_RETRY_MS)) {
      try {
        return await this.start(held);
      } catch (error) {
        const { name, machine } = held.record;
        const gone = this.#parts.domains.find(name) !== held || this.process(held) !== undefined;
        if (signal.aborted || gone || machine?.autostart !== true) return;
        const message = `The domain '${name}' did not start with its host, and is tried again: ${(error as Error).message}`;
        if (pause === FIRST_RETRY_MS) await this.#parts.events.tell("domain-stopped", message);
        await systemClock.sleep(pause, signal);
      }
    }
  }

  /** Looks no more; machines run on. */
  async close(): Promise<void> {
    this.#over.abort();
    await Promise.all([...this.#watched.values()].map(({ over }) => over));
  }

  #watch(held: HeldDomain, process: MachineProcess): void {
    // What could not be written down is found out by the next daemon.
    const over = this.#untilEnd(held, process).catch(() => {});
    this.#watched.set(held, { process, over });
  }

  /** Stays connected to the monitor, since QEMU tells why it ends only to whom listens. */
  async #untilEnd(held: HeldDomain, process: MachineProcess): Promise<void> {
    const { signal } = this.#over;
    const { qmp } = held.running;
    let askedAt: number | undefined;
    while (await isRunning(process)) {
      const waits = askedAt !== undefined && systemClock.now() - askedAt >= WATCH_MS;
      if (waits && qmp.shutdownReason !== undefined) wakeEnding(process);
      if (askedAt === undefined) {
        askedAt = systemClock.now();
        const asked = qmp.execute("query-status", {}).catch(() => {});
        void asked.finally(() => {
          askedAt = undefined;
        });
      }
      await qmp.change(WATCH_MS, signal);
      if (signal.aborted) return;
      for (const log of [process.paths.consoleLog, process.paths.log]) await trimLog(log);
    }
    const said = qmp.shutdownReason;
    const end = await readMachineEnd(process.paths);
    this.#watched.delete(held);
    if (!signal.aborted) await this.#written(held, machineEndReason(end, said));
  }

  async #written(held: HeldDomain, { reason, onPurpose }: Omit<MachineEndRecord, "at">): Promise<void> {
    const { stopping, ...machine } = this.#machine(held);
    const end = { reason, onPurpose: onPurpose || stopping === true, at: Date.now() };
    await this.#change(held, { ...machine, state: "stopped", end });
    await this.#parts.events.tell("domain-stopped", `The domain '${held.record.name}' has ended: ${reason}`);
  }

  #machine({ record: { name, machine } }: HeldDomain): MachineRecord {
    if (machine !== undefined) return machine;
    const message = `The domain '${name}' was added: somebody else runs it, and starts it`;
    throw new StreamdiskError("refused", message, { node: name });
  }

  #demandStopped(held: HeldDomain): MachineRecord {
    const machine = this.#machine(held);
    const process = this.process(held);
    if (process === undefined) return machine;
    const { name } = held.record;
    throw new StreamdiskError("in-use", `The machine '${name}' runs already (pid ${process.pid})`, { node: name });
  }

  #change(held: HeldDomain, machine: MachineRecord): Promise<void> {
    return this.#parts.domains.change(held, (record) => ({ ...record, machine }));
  }
}
