/**
 * What a person does with a machine: pause it, let it go on, reset it, end it. Each is done with nothing held (`DomainGuard`), in turn with
 * what the guard does by itself.
 *
 * Out of turn is only the wait for a guest that was told to power itself off: it may need a source that is lost and comes back, so that the
 * guard has to let it go on, and whoever loses patience ends it meanwhile. Nobody waits any more when the guard is over.
 */
import { systemClock } from "../block/index.ts";
import { killMachine } from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DomainGuard } from "./domain-guard.ts";
import type { HeldDomain } from "./domains.ts";
import type { Machines } from "./machines.ts";

export interface StopOptions {
  /** Ends QEMU without a word to the guest. */
  readonly force: boolean;
  /** How long it may take, in milliseconds. */
  readonly timeoutMs: number;
}

/** How long a reset may take: the machine's devices wait for what they have under way. */
const RESET_MS = 10_000;
const LOOK_MS = 200;
/** The states of one that somebody has paused; the second after a reset, or when it was started so. */
const PAUSED = ["paused", "prelaunch"];
/** What is done with a guest after which it is no more: it may see errors. */
const ENDS = { errors: true };

type OwnMachines = Pick<Machines, "process" | "stopping" | "ended">;

export class DomainControl {
  readonly #held: HeldDomain;
  readonly #guard: DomainGuard;
  readonly #machines: OwnMachines;
  readonly #acts = new Set<Promise<void>>();

  /** @param machines the daemon's own, whose processes it may end */
  constructor(held: HeldDomain, guard: DomainGuard, machines: OwnMachines) {
    this.#held = held;
    this.#guard = guard;
    this.#machines = machines;
  }

  /**
   * Pauses it until `resume`, over restarts of the daemon too.
   *
   * @throws {StreamdiskError} `refused` when requests of it are held that would reach the guest as errors
   */
  pause(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#refuseErrors();
      // What shall be is written down first: nobody lets it go on in between.
      await this.#guard.remember(true);
      await this.#guard.withNothingHeld(() => this.#qmp.execute("stop", {}));
      await this.#guard.tell("domain-paused", `is paused, until 'domain resume ${this.#name}'`);
    });
  }

  /** Lets it go on, whoever has paused it; one whose source is still lost runs until it needs that again. */
  resume(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#guard.remember(false);
      await this.#qmp.execute("cont", {});
      await this.#guard.tell("domain-resumed", "goes on, as it was told");
    });
  }

  /** As the button does it. One that was paused for an error runs then; one that a person or another program has paused stays so. */
  reset(): Promise<void> {
    return this.#inTurn(async () => {
      const before = await this.#guard.withNothingHeld(async () => {
        // QEMU forgets with the reset why it did not run.
        const state = await this.#qmp.execute("query-status", {}, this.#until);
        using done = this.#hears(["RESET", "SHUTDOWN"]);
        await this.#qmp.execute("system_reset", {}, this.#until);
        if (await done.within(RESET_MS)) return state;
        const message = `QEMU has not reset '${this.#name}' within ${RESET_MS / 1000} s: it may be waiting for a request that a source does not answer`;
        throw new StreamdiskError("io", message, { node: this.#name });
      }, ENDS);
      const state = await this.#qmp.execute("query-status", {});
      const isPaused = this.#held.record.pausedByUser || PAUSED.includes(before);
      if (state !== "running" && !isPaused) await this.#qmp.execute("cont", {});
      await this.#guard.tell("domain-reset", "was reset");
    });
  }

  /**
   * Has the guest power itself off, or with `force` ends QEMU; resolves when QEMU has ended. A machine of the daemon's own that
   * doesn't when it is forced is killed.
   *
   * @throws {StreamdiskError} `in-use` when that takes longer; `refused` for a machine that is paused, unless forced
   */
  stop({ force, timeoutMs }: StopOptions): Promise<void> {
    return this.#act(async () => {
      const process = this.#machines.process(this.#held);
      if (process !== undefined) await this.#machines.stopping(this.#held);
      try {
        if (!force) await this.#powerOff(timeoutMs);
        else await this.#guard.turns.run(() => this.#guard.withNothingHeld(() => this.#end(timeoutMs), ENDS));
      } catch (error) {
        if (process === undefined) throw error;
        if (!force) await this.#machines.stopping(this.#held, false);
        if (!force || this.#guard.over.aborted) throw error;
        // Somebody else may have given up meanwhile, and taken that back.
        await this.#machines.stopping(this.#held);
        await killMachine(process);
      }
      await this.#guard.remember(false);
      // Of the daemon's own it is told why they have ended.
      if (process !== undefined) return this.#machines.ended(this.#held);
      await this.#guard.tell("domain-stopped", force ? "was ended, as it was told" : "has powered off, as it was told");
    });
  }

  /** Resolves when nothing is done with it any more. To be called when its guard is over. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#acts);
  }

  get #qmp() {
    return this.#held.running.qmp;
  }

  get #name(): string {
    return this.#held.record.name;
  }

  /** Until when there is somebody who waits. */
  get #until() {
    return { signal: this.#guard.over };
  }

  #inTurn(act: () => Promise<void>): Promise<void> {
    return this.#act(() => this.#guard.turns.run(act));
  }

  async #act(act: () => Promise<void>): Promise<void> {
    this.#guard.over.throwIfAborted();
    const done = act();
    this.#acts.add(done);
    await done.finally(() => this.#acts.delete(done));
    // Of one that has ended there is nothing to be seen.
    await this.#guard.see().catch(() => {});
    this.#guard.look();
  }

  /** A machine that would not be stopped by them, but handed its guest what is held as errors. */
  async #refuseErrors(): Promise<void> {
    for (const { name, served, stopsOnErrors } of this.#guard.drives) {
      if (stopsOnErrors === "yes") continue;
      for (const { host, from } of served) {
        const held = (await host.served?.info())?.source.held ?? 0;
        if (held === 0) continue;
        const message =
          `'${this.#name}' can't be paused now: ${held} requests of its disk ${name} wait for '${from}', and would reach the guest as errors, ` +
          "since its device was started without rerror=stop. Bring the source back, or end the machine with 'domain stop --force'";
        throw new StreamdiskError("refused", message, { node: this.#name });
      }
    }
  }

  async #powerOff(timeoutMs: number): Promise<void> {
    using off = this.#hears(["SHUTDOWN"]);
    const state = await this.#guard.turns.run(async () => {
      const now = await this.#qmp.execute("query-status", {}, this.#until);
      if (now === "running") await this.#qmp.execute("system_powerdown", {}, this.#until);
      return now;
    });
    if (state !== "running" && state !== "shutdown") {
      const message = `'${this.#name}' does not run (${state}), so its guest can't power it off: let it go on first (domain resume), or end it with --force`;
      throw new StreamdiskError("refused", message, { node: this.#name });
    }
    if (state === "running" && !(await off.within(timeoutMs))) {
      throw this.#tooLate(timeoutMs, "its guest may not heed the power button; '--force' ends it");
    }
    // One that was started with -no-shutdown stays where it is.
    const after = await this.#qmp.execute("query-status", {}, this.#until).catch(() => undefined);
    if (after === "shutdown") await this.#guard.turns.run(() => this.#end(timeoutMs));
    else await this.#ended(timeoutMs);
  }

  /** Ends QEMU. */
  async #end(timeoutMs: number): Promise<void> {
    await this.#qmp.execute("quit", {}, this.#until).catch((error) => {
      // It may be gone before it has answered.
      if (!(error instanceof StreamdiskError) || error.code !== "shutdown") throw error;
    });
    await this.#ended(timeoutMs);
  }

  async #ended(timeoutMs: number): Promise<void> {
    const { signal } = this.#until;
    const end = systemClock.now() + timeoutMs;
    for (;;) {
      const error = await this.#qmp.execute("query-status", {}, { signal }).then(
        () => undefined,
        (failure: unknown) => failure,
      );
      signal.throwIfAborted();
      if (error instanceof StreamdiskError && !this.#qmp.isConnected && this.#isEnd(error)) return;
      if (systemClock.now() > end) throw this.#tooLate(timeoutMs, "end its process");
      await systemClock.sleep(LOOK_MS, signal);
    }
  }

  /** Nobody is behind its socket any more; or libvirt, which does answer, has none that runs. */
  #isEnd({ code, context: { operation } }: StreamdiskError): boolean {
    if (code !== "shutdown" && code !== "not-found") return false;
    return (operation === "connect") === (this.#held.libvirt === undefined);
  }

  #tooLate(timeoutMs: number, advice: string): StreamdiskError {
    const message = `'${this.#name}' has not ended within ${timeoutMs / 1000} s: ${advice}`;
    return new StreamdiskError("in-use", message, { node: this.#name });
  }

  /** Listens for these events. Whoever is not connected hears nothing: the command that brings them about comes before the wait for them. */
  #hears(names: readonly string[]) {
    let happened = false;
    const forget = this.#qmp.onEvent(({ name }) => {
      if (names.includes(name)) happened = true;
    });
    /** Whether one has come or comes in time, or QEMU ends. */
    const within = async (ms: number): Promise<boolean> => {
      const { signal } = this.#until;
      const end = systemClock.now() + ms;
      for (let left = ms; left > 0 && !happened && this.#qmp.isConnected; left = end - systemClock.now()) {
        await this.#qmp.change(left, signal);
        signal.throwIfAborted();
      }
      return happened || !this.#qmp.isConnected;
    };
    return { within, [Symbol.dispose]: forget };
  }
}
