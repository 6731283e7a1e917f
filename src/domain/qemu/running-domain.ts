/**
 * A domain whose QEMU runs, by its monitor: its disks, streamed as a whole or by steps.
 *
 * The stream is `StreamJob` over `QemuTarget`. Where QEMU can't be made to fill an overlay like that, its own block-stream has to do; that is
 * never silent: `method` and `warnings` say so.
 */
import type { Clock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { GuestDisk } from "../../nbd/index.ts";
import {
  type StepOptions,
  type StepResult,
  type StreamExtent,
  type StreamOptions,
  stepStream,
  type Tally,
  takeTally,
} from "../../stream/index.ts";
import type { DomainDescription } from "../description.ts";
import { findDisk } from "../find-disk.ts";
import { QmpClient } from "../qmp/client.ts";
import { DEFAULT_TIMEOUT_MS, type QmpTransport } from "../qmp/transport.ts";
import { BlockStream } from "./block-stream.ts";
import { freeTarget } from "./describe-domain.ts";
import { dropLeftJobs } from "./drop-backing.ts";
import { type FillExport, FillServer } from "./fill-server.ts";
import { type DomainStream, FillStream } from "./fill-stream.ts";
import { guestIo } from "./guest-pace.ts";
import { hotPlugged, plugIn, plugOut } from "./hot-plug.ts";
import { locateOverlay, type Overlay, type Purpose, queryBlockLayer } from "./locate-overlay.ts";
import { endWithoutLink } from "./own-sources.ts";
import { QemuTarget } from "./qemu-target.ts";
import { type ReplaceSourceOptions, replaceSource, type SourceReplaced } from "./replace-source.ts";

export interface RunningDomainOptions {
  /** Path of QEMU's QMP socket, or another way to its monitor. */
  readonly qmp: string | QmpTransport;
  readonly description: DomainDescription;
  /** Where QEMU makes the socket by which overlays are filled. @default the system's directory for temporary files */
  readonly socketDirectory?: string | undefined;
  /** How long QEMU may take to answer, in milliseconds. @default 30000 */
  readonly timeoutMs?: number | undefined;
  readonly clock?: Clock | undefined;
}

/** A part of what is known of a disk. */
export interface DomainMap {
  readonly extents: readonly StreamExtent[];
  readonly next?: number;
}

/** An overlay with the export by which it is filled, or a sentence that says why there is none. */
interface Attached {
  readonly overlay: Overlay;
  readonly fill: FillExport | string;
  readonly target?: QemuTarget;
}

export class RunningDomain implements AsyncDisposable {
  /** May be replaced by a newer one. */
  description: DomainDescription;
  readonly qmp: QmpClient;
  readonly #server: FillServer;
  readonly #clock: Clock | undefined;
  readonly #timeoutMs: number;
  readonly #over = new AbortController();
  /** What has put something into QEMU, or is about to, and takes it out again. */
  readonly #works = new Set<Promise<unknown>>();

  constructor({ qmp, description, socketDirectory, timeoutMs, clock }: RunningDomainOptions) {
    this.description = description;
    this.qmp = new QmpClient(qmp, { timeoutMs, clock });
    this.#server = new FillServer(this.qmp, { directory: socketDirectory, clock });
    this.#clock = clock;
    this.#timeoutMs = timeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  /**
   * Prepares the stream of a disk: it must be run or read from then, since there is something of it in QEMU already.
   *
   * @param name target, alias or path of the disk
   * @throws {StreamdiskError} what `findDisk` and `locateOverlay` throw, and what speaking to QEMU does
   */
  async stream(name: string, options: StreamOptions = {}): Promise<DomainStream> {
    const attached = await this.#during(options.signal, (signal) => this.#attach(name, "change", signal));
    if (typeof attached.fill !== "string") {
      const { target, fill, overlay } = attached;
      return new FillStream({ target: target!, fill, guest: () => guestIo(this.qmp, overlay) }, options);
    }
    const { overlay, fill } = attached;
    const warnings = [`QEMU's own block-stream fills '${overlay.name}', which is slow: ${fill}`];
    const { speed, retryFor, signal } = options;
    return new BlockStream({
      qmp: this.qmp,
      overlay,
      ...{ speed, retryFor, signal, warnings },
      clock: options.clock ?? this.#clock,
    });
  }

  /** The overlay of a disk, as it is now, also while it is streamed. @throws {StreamdiskError} as `stream` */
  async overlay(name: string, signal?: AbortSignal): Promise<Overlay> {
    return this.#locate(name, "look", signal);
  }

  /** One increment (`stepStream`). @throws {StreamdiskError} `unsupported` where QEMU can't be made to fill */
  async step(name: string, options: StepOptions): Promise<StepResult> {
    return this.#withTarget(name, "change", options.signal, (target, signal) =>
      stepStream(target, { ...options, signal }),
    );
  }

  /**
   * Ends what a process has begun that died right after it had dropped the link of a disk: that is made durable, and what is left in QEMU
   * of the source is taken out. Nothing is done for a disk that has a link.
   */
  async letGo(name: string): Promise<void> {
    const overlay = await this.overlay(name);
    if (overlay.backingNode === undefined) await endWithoutLink(this.qmp, overlay);
  }

  /**
   * Puts another source below a disk, in place of one that has died for good or has moved. No stream of the disk may run.
   *
   * @throws {StreamdiskError} `refused` for a source of another size or content; as `stream` and `openChain`
   */
  async replaceSource(name: string, options: ReplaceSourceOptions): Promise<SourceReplaced> {
    await dropLeftJobs(this.qmp);
    const overlay = await this.#locate(name, "change");
    return replaceSource({ qmp: this.qmp, server: this.#server, overlay }, options);
  }

  /**
   * Puts a disk into the running machine. Its description has it from then on.
   *
   * @param target "vdb"; absent: the first that is free
   * @returns the target
   * @throws {StreamdiskError} `exists`; `unsupported` for a machine that takes no disk while it runs
   */
  async attach(disk: GuestDisk, target?: string): Promise<string> {
    const { name, disks } = this.description;
    const taken = disks.map((one) => one.target);
    const chosen = target ?? freeTarget(taken);
    if (taken.includes(chosen)) throw new StreamdiskError("exists", `The domain '${name}' has a disk '${chosen}'`);
    await plugIn(this.qmp, name, chosen, disk);
    return chosen;
  }

  /** Takes out what `attach` has put in. @throws {StreamdiskError} `in-use` when the guest does not let go of it */
  async detach(name: string): Promise<void> {
    await plugOut(this.qmp, this.description.name, hotPlugged(name) ?? name);
  }

  /** What a disk has and lacks. @throws {StreamdiskError} as `step` */
  async tally(name: string, signal?: AbortSignal): Promise<Tally> {
    return this.#withTarget(name, "look", signal, (target, stop) => takeTally(target, stop));
  }

  /**
   * What a disk has itself and what it lacks, from an offset on: extents that touch, so many at most.
   *
   * @returns with `next`, where to go on, when there is more
   * @throws {StreamdiskError} as `step`
   */
  async map(name: string, { offset, limit }: { readonly offset: number; readonly limit: number }): Promise<DomainMap> {
    return this.#withTarget(name, "look", undefined, async (target) => {
      const extents: StreamExtent[] = [];
      const start = offset - (offset % target.grain);
      if (start >= target.length) return { extents };
      for await (const extent of target.extents(start, target.length - start)) {
        if (extents.length >= limit) return { extents, next: extent.offset };
        extents.push(extent);
      }
      return { extents };
    });
  }

  /** Steps and looks that are under way end, and take out of QEMU what they have put there; whoever streams sees to that before. */
  async [Symbol.asyncDispose](): Promise<void> {
    const message = `The domain '${this.description.name}' is not used any more`;
    this.#over.abort(new StreamdiskError("shutdown", message, { node: this.description.name }));
    const ended = new AbortController();
    const works = Promise.allSettled(this.#works).then(() => ended.abort());
    // A QEMU that does not answer is not waited for any longer than one command of it.
    await Promise.race([works, this.qmp.clock.sleep(this.#timeoutMs, ended.signal)]);
    this.qmp[Symbol.dispose]();
    await this.#server.abandon();
  }

  async #locate(name: string, purpose: Purpose, signal?: AbortSignal): Promise<Overlay> {
    const disk = findDisk(this.description, name);
    return locateOverlay(await queryBlockLayer(this.qmp, signal), this.description.name, disk, purpose);
  }

  async #withTarget<T>(
    name: string,
    purpose: Purpose,
    given: AbortSignal | undefined,
    work: (target: QemuTarget, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.#during(given, async (signal) =>
      this.#overTarget(await this.#attach(name, purpose, signal), signal, work),
    );
  }

  async #overTarget<T>(
    attached: Attached,
    signal: AbortSignal,
    work: (target: QemuTarget, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { overlay, fill, target } = attached;
    if (typeof fill === "string") {
      const message = `'${overlay.name}' can only be streamed as a whole: ${fill}`;
      throw new StreamdiskError("unsupported", message, { node: overlay.name });
    }
    try {
      const done = await work(target!, signal);
      // A tally that was stopped is one of a part.
      this.#over.signal.throwIfAborted();
      return done;
    } finally {
      await fill.remove();
    }
  }

  /** Does what is waited for when the domain is not used any more, with a signal that aborts then too. */
  async #during<T>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const over = this.#over.signal;
    const result = work(signal === undefined ? over : AbortSignal.any([signal, over]));
    this.#works.add(result);
    try {
      return await result;
    } finally {
      this.#works.delete(result);
    }
  }

  /** @param purpose what is done with it; a mere look leaves jobs alone, which another process may see through */
  async #attach(name: string, purpose: Purpose, signal: AbortSignal): Promise<Attached> {
    const disk = findDisk(this.description, name);
    const { qmp } = this;
    if (purpose === "change") await dropLeftJobs(qmp, signal);
    const domain = this.description.name;
    const overlay = await this.#locate(name, purpose, signal);
    const fill = await this.#server.export(overlay, signal);
    if (typeof fill === "string") return { overlay, fill };
    return { overlay, fill, target: new QemuTarget({ qmp, domain, disk, overlay, fill, purpose }) };
  }
}
