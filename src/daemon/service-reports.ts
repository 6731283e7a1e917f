/**
 * Keeps the service manager informed that started the daemon: ready, alive, ending. Alive is said twice in the time that it allows, from
 * the thread that answers the API, and only when the daemon answers as it does at `/readyz`: one that hangs is killed and started
 * again. One that answers with an error is alive: to start it again would take its disks from their guests and mend nothing.
 */
import type { Service } from "../api/index.ts";
import { type Clock, systemClock } from "../block/index.ts";
import type { ServiceManager } from "../host/index.ts";
import type { Log } from "./log.ts";

export class ServiceReports {
  readonly #manager: ServiceManager | undefined;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #ended = new AbortController();
  #failed = false;

  /** @param manager undefined: nobody wants to know */
  constructor(manager: ServiceManager | undefined, log: Log, clock: Clock = systemClock) {
    this.#manager = manager;
    this.#log = log;
    this.#clock = clock;
  }

  /** What it does meanwhile, for people. */
  status(status: string): void {
    this.#tell(`STATUS=${status}`);
  }

  /** Everything is served; from now on it is said that the service is alive. */
  ready(service: Pick<Service, "daemon">): void {
    this.#tell("READY=1", "STATUS=All is served");
    const allowed = this.#manager?.watchdogMs;
    if (allowed !== undefined) void this.#beat(service, allowed / 2);
  }

  async #beat(service: Pick<Service, "daemon">, everyMs: number): Promise<void> {
    while (!this.#ended.signal.aborted) {
      const status = await service.daemon({ params: {}, query: {}, body: {} }).then(
        ({ disks, streams, damage }) =>
          `Disks: ${disks}, streams running: ${streams}${damage === undefined ? "" : "; the store was damaged: see daemon status"}`,
        (error: unknown) => (error instanceof Error ? error.message : String(error)).replaceAll("\n", " "),
      );
      if (!this.#ended.signal.aborted) this.#tell("WATCHDOG=1", `STATUS=${status}`);
      await this.#clock.sleep(everyMs, this.#ended.signal);
    }
  }

  /** It has been asked to end. */
  stopping(): void {
    this.#ended.abort();
    this.#tell("STOPPING=1", "STATUS=Guests get their replies, then images are closed");
  }

  /** That it cannot be told must not be in the way of the disks. */
  #tell(...lines: readonly string[]): void {
    try {
      this.#manager?.tell(...lines);
    } catch (error) {
      if (!this.#failed) this.#log.error({ err: error }, "The service manager cannot be told how the daemon is");
      this.#failed = true;
    }
  }
}
