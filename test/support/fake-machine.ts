/** A machine behind a fake monitor, with one disk, which does what it is told at once or as the test says; and who looks after it. */
import type { Socket } from "node:net";
import type { TestContext } from "node:test";
import type { DomainGuardParts } from "../../src/daemon/domain-guard.ts";
import { DomainGuards } from "../../src/daemon/domain-guards.ts";
import type { HeldDomain } from "../../src/daemon/domains.ts";
import { EventHub } from "../../src/daemon/event-hub.ts";
import { noLog } from "../../src/daemon/log.ts";
import type { ServedSource } from "../../src/daemon/served-sources.ts";
import { Turns } from "../../src/daemon/turns.ts";
import { RunningDomain } from "../../src/domain/index.ts";
import type { DomainRecord } from "../../src/jobs/index.ts";
import { FakeMonitor, type SentCommand } from "./fake-monitor.ts";
import { MemoryStore } from "./memory-store.ts";
import { describedAs } from "./qemu-disk.ts";
import { until } from "./until.ts";

export interface FakeMachineOptions {
  readonly state?: string;
  /** Path or URI of what its disk is read from. @default a server that the daemon does not serve */
  readonly source?: string;
  /** More of what the daemon remembers of it. */
  readonly record?: Partial<DomainRecord>;
  /** What the daemon serves. */
  readonly sources?: readonly ServedSource[];
  /** How long it may take to answer, in milliseconds. */
  readonly timeoutMs?: number;
}

/** What a command does by itself. */
const DOES: Readonly<Record<string, (machine: FakeMachine) => void>> = {
  stop: (machine) => machine.becomes(machine.state === "running" ? "paused" : machine.state, "STOP"),
  cont: (machine) => machine.becomes("running", "RESUME"),
  system_reset: (machine) => machine.becomes(machine.state === "running" ? "running" : "prelaunch", "RESET"),
  system_powerdown: () => {},
  quit: (machine) => void machine.ends(),
};

export class FakeMachine implements AsyncDisposable {
  /** The answer to `query-status`. */
  state: string;
  /** What it was told and what it has told, in order. */
  readonly story: string[] = [];
  /** Whether its QEMU waits for something, and answers nothing. */
  isSilent: () => boolean = () => false;
  /** What commands do in place of what they usually do. */
  readonly does: Record<string, (machine: FakeMachine) => void> = {};
  readonly store = new MemoryStore();
  /** What who looks after it works with. */
  readonly parts: DomainGuardParts;
  readonly guards: DomainGuards;
  readonly held: HeldDomain;
  readonly #monitor: FakeMonitor;
  readonly #source: string;
  #ending: Promise<void> | undefined;

  private constructor(monitor: FakeMonitor, options: FakeMachineOptions) {
    const { state = "running", source = "nbd://far/x", record, sources = [], timeoutMs } = options;
    this.state = state;
    this.#monitor = monitor;
    this.#source = source;
    const running = new RunningDomain({ qmp: monitor.path, description: describedAs("vm"), timeoutMs });
    this.held = {
      record: { id: "1", name: "vm", qmp: monitor.path, createdAt: 1, ...record },
      ...{ running, libvirt: undefined, turns: new Turns(), disks: new Map() },
    };
    this.parts = {
      events: new EventHub(this.store, noLog, { events: 1000, jobs: 100 }),
      change: async (held, change) => {
        held.record = change(held.record);
      },
      describe: async () => running.description,
      sources: () => sources,
      answers: async () => true,
      machines: () => ({ process: () => undefined, stopping: async () => {}, ended: async () => {} }),
    };
    this.guards = new DomainGuards(this.parts);
  }

  static async start(t: TestContext, options: FakeMachineOptions = {}): Promise<FakeMachine> {
    const monitor = await FakeMonitor.start({ command: (sent, socket) => machine.#told(sent, socket) });
    const machine: FakeMachine = new FakeMachine(monitor, options);
    t.after(() => machine[Symbol.asyncDispose]());
    return machine;
  }

  get control() {
    return this.guards.of(this.held).control;
  }

  get guard() {
    return this.guards.of(this.held).guard;
  }

  /** It is in another state, and says so. */
  becomes(state: string, event: string, data: object = {}): void {
    this.state = state;
    this.story.push(event);
    for (const client of this.#monitor.clients) client.write(JSON.stringify({ event, data }));
  }

  /** A request of its disk has failed. */
  fails(): void {
    const data = { device: "", "node-name": "top", action: "stop", reason: "Input/output error" };
    this.becomes("io-error", "BLOCK_IO_ERROR", data);
  }

  /** Its QEMU ends. */
  ends(): Promise<void> {
    if (this.#ending === undefined) {
      this.becomes("shutdown", "SHUTDOWN");
      this.#ending = this.#monitor[Symbol.asyncDispose]();
    }
    return this.#ending;
  }

  /** Resolves when it was told or has told something. */
  async until(what: string): Promise<void> {
    await until(
      async () => this.story.includes(what),
      () => `no ${what}: ${this.story.join()}`,
    );
  }

  #told({ execute, id }: SentCommand, socket: Socket): void {
    if (this.isSilent()) return;
    const answer = this.#answerTo(execute);
    if (answer === undefined) {
      this.story.push(execute);
      (this.does[execute] ?? DOES[execute])?.(this);
    }
    socket.write(JSON.stringify({ return: answer ?? {}, id }));
  }

  #answerTo(question: string): unknown {
    const node = {
      ...{ "node-name": "top", drv: "nbd", ro: false, file: this.#source, detect_zeroes: "off" },
      image: { "virtual-size": 2 ** 20 },
    };
    const device = { device: "", qdev: "/machine/peripheral/virtio-disk0/virtio-backend", inserted: node };
    const answers: Readonly<Record<string, unknown>> = {
      "query-status": { status: this.state },
      "query-jobs": [],
      "query-block": [{ ...device, "io-status": this.state === "io-error" ? "failed" : "ok" }],
      "query-named-block-nodes": [node],
      "x-debug-query-block-graph": { nodes: [{ id: 1, type: "block-driver", name: "top" }], edges: [] },
      "qom-get": "stop",
    };
    return answers[question];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.guards.end(this.held);
    await this.held.running[Symbol.asyncDispose]();
    await this.ends();
  }
}
