/**
 * Looks after one machine while its disks' sources come and go.
 *
 * QEMU stops a machine whose request has failed (`rerror=stop`): it is marked then with the reason, and let go on when all that it lacked is
 * there again, unless a person has paused it. What is not known to be mended is tried at growing intervals, and told of once.
 *
 * **QEMU answers nothing while it waits for a request of the machine**, and it waits for all of them whenever it stops, resets or
 * ends the machine: so nothing may be held then. Whoever gives such a command does it in `withNothingHeld`; and when QEMU stops it
 * by itself, or somebody else has it do so, which it tells before it waits (BLOCK_IO_ERROR, STOP), what is held fails too; and so it does
 * when a machine of the daemon's own has not answered at all since the daemon was started.
 *
 * What to do follows from QEMU's state alone, asked for again after every event, connection, change of a source, and now and then: what was
 * not heard is not missed. Only that a person has paused it stands in the record.
 */
import { type Clock, systemClock } from "../block/index.ts";
import { type DomainDescription, guestDrives, qmpFailure } from "../domain/index.ts";
import { type ErrorCode, StreamdiskError } from "../errors/index.ts";
import type { DomainRecord } from "../jobs/index.ts";
import { sourceInWords } from "./domain-views.ts";
import type { HeldDomain } from "./domains.ts";
import type { EventHub } from "./event-hub.ts";
import type { Machines } from "./machines.ts";
import { type BlockFailure, causeOf, type DriveNow, type PauseCause, unpausable } from "./pause-cause.ts";
import { type ServedSource, servedAt } from "./served-sources.ts";
import { Turns } from "./turns.ts";

export interface DomainGuardParts {
  readonly events: EventHub;
  /** Remembers something else of a domain. */
  readonly change: (held: HeldDomain, change: (record: DomainRecord) => DomainRecord) => Promise<void>;
  readonly describe: (held: HeldDomain) => Promise<DomainDescription>;
  /** What the daemon serves now. */
  readonly sources: () => readonly ServedSource[];
  /** Whether a source answers that QEMU has open itself; undefined when it may not be asked. */
  readonly answers: (uri: string) => Promise<boolean | undefined>;
  /** The daemon's own among them. */
  readonly machines: () => Pick<Machines, "process" | "stopping" | "ended">;
  readonly clock?: Clock;
}

/** Why a machine does not run. */
export interface DomainPause {
  readonly code: PauseCause["code"] | "paused";
  /** A sentence: what has happened, and what happens next. */
  readonly reason: string;
  /** Milliseconds since 1970. */
  readonly since: number;
  /** `DOMAIN:DEVICE`. */
  readonly disk?: string;
  readonly source?: string;
  /** A person or another program has paused it: it is not let go on by itself. */
  readonly byUser: boolean;
}

/** What has to be looked at again by. */
const EVENTS = [
  ...["STOP", "RESUME", "RESET", "SHUTDOWN", "BLOCK_IO_ERROR"],
  ...["BLOCK_JOB_COMPLETED", "DEVICE_DELETED"],
];
const IDLE_MS = 20_000;
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 60_000;
/** How long a machine runs before it is believed to. */
const SETTLE_MS = 500;
/** After so long the next pause is another matter. */
const CALM_MS = 30_000;

export class DomainGuard {
  readonly turns: Turns = new Turns();
  readonly #held: HeldDomain;
  readonly #parts: DomainGuardParts;
  readonly #clock: Clock;
  readonly #over = new AbortController();
  /** Aborted when there is a reason to look. */
  #news = new AbortController();
  /** Its drives, as they were seen last; undefined until then. */
  #seen: readonly DriveNow[] | undefined;
  readonly #watched = new Set<ServedSource["host"]>();
  #pause: DomainPause | undefined;
  #failure: BlockFailure | undefined;
  /** The source that was lost last, since the machine has stopped. */
  #lately: ServedSource | undefined;
  #tries = 0;
  #triedAt = Number.NEGATIVE_INFINITY;
  #isUnblocking = false;
  #running: Promise<void> = Promise.resolve();

  constructor(held: HeldDomain, parts: DomainGuardParts) {
    this.#held = held;
    this.#parts = parts;
    this.#clock = parts.clock ?? systemClock;
  }

  /** Why it does not run; undefined when it does, and when nobody knows. */
  get pause(): DomainPause | undefined {
    return this.#pause;
  }

  /** What may go wrong with it when a source dies. */
  get warnings(): string[] {
    const { name } = this.#held.record;
    return this.drives.flatMap((drive) => {
      const pauses = drive.served.some(({ policy }) => policy().afterwards === "pause");
      const wrong = pauses ? unpausable(`${name}:${drive.name}`, drive) : undefined;
      return wrong ?? [];
    });
  }

  /** Aborted, with the reason, when nobody looks after it any more. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** Its drives, as they were seen last. */
  get drives(): readonly DriveNow[] {
    return this.#seen ?? [];
  }

  start(): void {
    this.#running = this.#follow();
  }

  async stop(): Promise<void> {
    const message = `Nobody waits for '${this.#held.record.name}' any more: the daemon ends, or the domain was removed`;
    this.#over.abort(new StreamdiskError("shutdown", message, { node: this.#held.record.name }));
    this.look();
    await this.#running;
  }

  /** Looks at the machine, and knows how it is then. */
  async see(): Promise<void> {
    await this.turns.run(() => this.#look());
  }

  /** What it lacked was mended: it goes on if it has stopped for that, unless a person has paused it. */
  async mended(): Promise<void> {
    await this.turns.run(async () => {
      const { running, record } = this.#held;
      if (record.pausedByUser) return;
      const state = await running.qmp.execute("query-status", {}, { signal: this.#over.signal });
      if (state === "io-error") await this.#goOn("goes on: it has another source");
    });
  }

  /** Has it look at the machine soon. */
  readonly look = (): void => this.#news.abort();

  async #follow(): Promise<void> {
    const { qmp } = this.#held.running;
    const forget = qmp.onEvent(({ name, data }) => {
      if (name === "BLOCK_IO_ERROR" && data.get("action").value === "stop") {
        const node = data.get("node-name").optional((value) => value.string());
        const reason = data.get("reason").optional((value) => value.string()) ?? "";
        this.#failure = { node, reason, device: data.get("device").string() };
        void this.#unblock();
      } else if (name === "STOP") void this.#unblock();
      if (EVENTS.includes(name)) this.look();
    });
    let away = FIRST_RETRY_MS;
    while (!this.#over.signal.aborted) {
      this.#news = new AbortController();
      try {
        const next = await this.turns.run(() => this.#look());
        away = FIRST_RETRY_MS;
        await this.#next(next);
      } catch (error) {
        this.#pause = undefined;
        // It may be waiting since a daemon before this one stopped it: its requests are held anew, and nobody has asked it for its drives.
        const mayWait = this.#seen === undefined && this.#held.record.machine?.state === "running";
        if (mayWait && isSilence(error)) await this.#unblock();
        await this.#clock.sleep(away, this.#news.signal);
        away = Math.min(away * 2, LONGEST_RETRY_MS / 2);
      }
    }
    forget();
    for (const host of this.#watched) host.off("change", this.#sourceChanged);
  }

  /** Waits for a reason to look: one that was told, the end of the connection, or so much time. */
  async #next(ms: number): Promise<void> {
    const { qmp } = this.#held.running;
    const end = this.#clock.now() + ms;
    const { signal } = this.#news;
    for (let left = ms; left > 0 && qmp.isConnected && !signal.aborted; left = end - this.#clock.now()) {
      await qmp.change(left, signal);
    }
  }

  readonly #sourceChanged = (): void => {
    const lost = this.drives.flatMap(({ served }) => served).find(({ host }) => !isWell(host));
    if (lost !== undefined) this.#lately = lost;
    this.look();
  };

  /** @returns how long it may be until the next look, in milliseconds */
  async #look(): Promise<number> {
    const { running, record } = this.#held;
    const { signal } = this.#over;
    const state = await running.qmp.execute("query-status", {}, { signal });
    await this.refresh();
    if (state === "running") return this.#isRunning();
    if (record.pausedByUser) {
      this.#mark({
        code: "paused",
        reason: `It was paused, and goes on by 'domain resume ${record.name}'`,
        byUser: true,
      });
    } else if (state === "io-error") return this.#isStopped();
    else if (state === "paused") {
      this.#mark({
        code: "paused",
        reason: "It was paused, and not by this daemon: whoever did lets it go on",
        byUser: true,
      });
    } else this.#pause = undefined;
    return IDLE_MS;
  }

  async #isRunning(): Promise<number> {
    const paused = this.#pause;
    this.#pause = undefined;
    this.#failure = undefined;
    this.#lately = undefined;
    if (this.#clock.now() - this.#triedAt > CALM_MS) this.#tries = 0;
    if (this.#held.record.pausedByUser) await this.remember(false);
    if (paused !== undefined && !paused.byUser)
      await this.tell("domain-resumed", "goes on: somebody has let it", paused);
    return IDLE_MS;
  }

  /** QEMU has stopped it for an error. */
  async #isStopped(): Promise<number> {
    const cause = causeOf(this.drives, this.#failure, this.#lately);
    const { awaits, source } = cause;
    if (awaits === "source") {
      this.#tries = 0;
      this.#lately = this.drives.flatMap(({ served }) => served).find(({ host }) => !isWell(host)) ?? this.#lately;
    }
    const wait = awaits === "source" || awaits === "person" ? IDLE_MS : this.#waitsFor();
    const mayAsk = awaits !== "elsewhere" || wait > 0 ? undefined : await this.#parts.answers(source ?? "");
    await this.#markFor(cause);
    if (awaits === "source" || awaits === "person" || wait > 0) return wait;
    if (awaits === "elsewhere" && mayAsk !== true) {
      this.#triedAt = this.#clock.now();
      this.#tries++;
      return this.#waitsFor();
    }
    return this.#goOn(cause.code === "source-lost" ? `goes on: '${source}' is back` : "goes on");
  }

  /** How long it is until the machine may be let go on once more. */
  #waitsFor(): number {
    const pause =
      this.#tries < 2 ? FIRST_RETRY_MS : Math.min(FIRST_RETRY_MS * 2 ** (this.#tries - 1), LONGEST_RETRY_MS);
    return Math.max(0, this.#triedAt + pause - this.#clock.now());
  }

  /** Lets it go on, and sees whether it does. */
  async #goOn(what: string): Promise<number> {
    const { qmp } = this.#held.running;
    this.#tries++;
    this.#triedAt = this.#clock.now();
    this.#failure = undefined;
    await qmp.execute("cont", {});
    await this.#clock.sleep(SETTLE_MS, this.#over.signal);
    if ((await qmp.execute("query-status", {})) !== "running") return 0;
    const paused = this.#pause;
    this.#pause = undefined;
    if (paused !== undefined) await this.tell("domain-resumed", what, paused);
    return IDLE_MS;
  }

  async #markFor({ code, disk, source, what, awaits }: PauseCause): Promise<void> {
    const { name } = this.#held.record;
    const next = {
      source: "It goes on by itself when that is mended",
      elsewhere: `It goes on by itself when that answers, if this daemon may ask it (--allow); else by 'domain resume ${name}'`,
      nobody: "It is let go on by itself",
      person: `Then let it go on: 'streamdisk domain resume ${name}'`,
    }[awaits];
    const news = this.#mark({
      ...{ code, reason: `${what}. ${next}`, byUser: false },
      ...(disk !== undefined && { disk: `${name}:${disk}` }),
      ...(source !== undefined && { source }),
    });
    if (news) await this.tell("domain-paused", `is paused: ${what}. ${next}`, this.#pause);
  }

  /** @returns whether that is not what is known already */
  #mark(pause: Omit<DomainPause, "since">): boolean {
    const { code, disk, source, since = Date.now() } = this.#pause ?? {};
    const news = code !== pause.code || disk !== pause.disk || source !== pause.source;
    this.#pause = { ...pause, since: news ? Date.now() : since };
    return news;
  }

  /** Tells what has become of the machine. */
  async tell(
    type: "domain-paused" | "domain-resumed" | "domain-reset" | "domain-stopped",
    what: string,
    about?: DomainPause,
  ): Promise<void> {
    const { disk, source, code } = about ?? {};
    await this.#parts.events.tell(type, `The domain '${this.#held.record.name}' ${what}`, {
      ...(disk !== undefined && { disk }),
      ...(source !== undefined && { source }),
      ...(code !== undefined && code !== "paused" && { code: code satisfies ErrorCode }),
    });
  }

  /** Remembers whether a person has paused it. */
  async remember(pausedByUser: boolean): Promise<void> {
    if ((this.#held.record.pausedByUser ?? false) === pausedByUser) return;
    await this.#parts.change(this.#held, ({ pausedByUser: _old, ...rest }) =>
      pausedByUser ? { ...rest, pausedByUser } : rest,
    );
  }

  /** Asks QEMU what the machine's drives are. */
  async refresh(): Promise<void> {
    const { running } = this.#held;
    const { signal } = this.#over;
    if (running.description.disks.length === 0) await this.#parts.describe(this.#held);
    const all = this.#parts.sources();
    const found = await guestDrives(running.qmp, running.description, signal).catch((error) => {
      // Of a QEMU that can't say it, nothing of its disks is known.
      if (qmpFailure(error) !== undefined) return [];
      throw error;
    });
    const drives: DriveNow[] = [];
    for (const drive of found) drives.push({ ...drive, served: await servedAt(drive.sources, all) });
    this.#seen = drives;
    for (const { served } of drives) {
      for (const { host } of served) {
        if (this.#watched.has(host)) continue;
        this.#watched.add(host);
        host.on("change", this.#sourceChanged);
      }
    }
  }

  /**
   * Does something for which QEMU waits for the machine's requests: those that wait for a lost source fail, and what comes meanwhile.
   *
   * @param act what is done; QEMU answers
   * @param errors whether the guest may see that, of a drive whose device does not stop the machine. @default false
   */
  async withNothingHeld<T>(act: () => Promise<T>, { errors = false } = {}): Promise<T> {
    const hosts = new Set((await this.#holders(errors)).map(({ host }) => host));
    const failing = [...hosts].flatMap(({ served }) => served ?? []);
    // One whose thread has died holds nothing.
    await Promise.all(failing.map((served) => served.failHeld().catch(() => {})));
    try {
      return await act();
    } finally {
      await Promise.all(failing.map((served) => served.release().catch(() => {})));
    }
  }

  /** What of the daemon's may hold requests of it. */
  async #holders(errors: boolean): Promise<readonly ServedSource[]> {
    if (this.#seen !== undefined) {
      return this.#seen.filter((drive) => errors || drive.stopsOnErrors === "yes").flatMap(({ served }) => served);
    }
    const { record, running } = this.#held;
    // Of the daemon's own it is known that they stop.
    if (!errors && record.machine === undefined) return [];
    const disks = running.description.disks.flatMap(({ source }) =>
      source === undefined ? [] : sourceInWords(source),
    );
    return servedAt([...(record.needs ?? []), ...disks], this.#parts.sources());
  }

  /** QEMU stops the machine, whoever has it do so, and answers when none of its requests waits any more. */
  async #unblock(): Promise<void> {
    if (this.#isUnblocking) return;
    this.#isUnblocking = true;
    const { qmp } = this.#held.running;
    // A QEMU that does not answer, or has ended, waits for something else.
    const { signal } = this.#over;
    await this.withNothingHeld(() => qmp.execute("query-status", {}, { signal })).catch(() => {});
    this.#isUnblocking = false;
  }
}

/** Whether that says of a QEMU that it runs and does not answer. */
function isSilence(error: unknown): boolean {
  return error instanceof StreamdiskError && (error.code === "io" || error.code === "in-use");
}

function isWell({ served, source }: ServedSource["host"]): boolean {
  return served !== undefined && source?.state !== "lost" && source?.state !== "changed";
}
