/**
 * The disks of a daemon: made, adopted, served, changed and let go of.
 *
 * What shall be is written down before it is begun, so that a daemon which dies in between knows of it when it comes back: a
 * record says `creating` before its file is begun, and the file has its name only when it is complete. So at a start a file that is
 * there is a disk, and what is not is undone. `deleting` is finished. A record never says that a file is the daemon's own unless
 * nothing was at its place before.
 *
 * Acts upon one disk come one at a time. A disk that cannot be opened is tried again now and then, and before each act that needs it.
 */
import { randomUUID } from "node:crypto";
import { rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { NewDisk } from "../api/index.ts";
import type { ServedDisk } from "../engine/index.ts";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { createImage, removeHalfMade } from "../image/index.ts";
import type { DeploymentRecord, DiskRecord, DiskSettings, Store } from "../jobs/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import { isLinkedTo, overBase } from "./disk-base.ts";
import { isThere, nothingThere, removeSocket, somethingThere, syncDirectory } from "./disk-files.ts";
import { HostedImage, serveOptions } from "./disk-host.ts";
import { DiskStories } from "./disk-stories.ts";
import type { EventHub } from "./event-hub.ts";
import { findAbove } from "./image-backing.ts";
import type { JobRunner } from "./job-runner.ts";
import { newDiskSettings } from "./new-disk.ts";
import { inParallel } from "./parallel.ts";
import { knownNeeds, type SourceNeeds } from "./source-needs.ts";
import { Turns } from "./turns.ts";

/** One disk. */
export interface HeldDisk {
  record: DiskRecord;
  readonly host: HostedImage;
  readonly turns: Turns;
}

export interface DisksParts {
  readonly store: Store;
  readonly events: EventHub;
  readonly needs: SourceNeeds;
  readonly runner: JobRunner;
  readonly allowed: AllowedPaths;
  readonly options: DaemonOptions;
  /** The deployment that has this name or this image for its disk. */
  readonly reserved: (name: string, image: string) => Pick<DeploymentRecord, "id" | "name"> | undefined;
}

/** Disks that are opened at once, at a start. */
const MOST_AT_ONCE = 8;

export class Disks {
  readonly #parts: DisksParts;
  readonly stories: DiskStories;
  readonly #byName = new Map<string, HeldDisk>();
  /** Names and images of disks that are being made. */
  readonly #claimed = new Set<string>();
  #closed = false;

  constructor(parts: DisksParts) {
    this.#parts = parts;
    this.stories = new DiskStories(parts.events);
  }

  /** In the order of their names. */
  all(): HeldDisk[] {
    return [...this.#byName.values()].sort((a, b) => (a.record.name < b.record.name ? -1 : 1));
  }

  find(name: string): HeldDisk | undefined {
    return this.#byName.get(name);
  }

  /** @throws {StreamdiskError} `not-found` */
  demand(name: string): HeldDisk {
    const held = this.#byName.get(name);
    if (held !== undefined) return held;
    throw new StreamdiskError("not-found", `There is no disk '${name}': 'streamdisk disk ls' lists them`, {
      node: name,
    });
  }

  /** Finishes what was begun, and opens all; resolves when each has been tried. A disk that fails holds up nobody. */
  async restore(records: readonly DiskRecord[]): Promise<void> {
    // All have their names from the beginning, whatever they wait for.
    const disks = records.map((record) => this.#hold(record));
    await inParallel(disks, MOST_AT_ONCE, async (held) => {
      // What fails has been told of, and is tried again.
      await held.turns.run(() => this.#restore(held)).catch(() => {});
    });
  }

  async #restore(held: HeldDisk): Promise<void> {
    const { id, name, state, settings } = held.record;
    const { store } = this.#parts;
    if (state === "deleting") return this.#finishDeleting(held);
    if (state === "creating" && !(await isThere(settings.image))) {
      await removeHalfMade(settings.image);
      await store.deleteDisk(id);
      this.#byName.delete(name);
      this.#parts.needs.forget(id);
      return this.stories.undone(name);
    }
    if (state === "creating") {
      held.record = { ...held.record, state: "ready" };
      await store.putDisk(held.record);
    }
    await this.#demandOpen(held);
  }

  /** Lets go of all, and opens none any more: clients first, images closed clean. */
  async close(): Promise<void> {
    this.#closed = true;
    await inParallel(this.all(), MOST_AT_ONCE, ({ host, turns }) => turns.run(() => host.close().catch(() => {})));
  }

  /**
   * Makes a disk over a source, or adopts an image, and serves it. Undone if anything of it fails.
   *
   * @param deployment id of that whose disk it is
   */
  async create(order: NewDisk, deployment?: string): Promise<HeldDisk> {
    const { name } = order;
    if (this.#closed) throw ending();
    const settings = await newDiskSettings(order, this.#parts.allowed);
    const claims = [`name ${name}`, `image ${settings.image}`];
    this.refuseTaken(name, settings.image, deployment);
    for (const claim of claims) this.#claimed.add(claim);
    try {
      return await this.#create(order, settings, deployment);
    } finally {
      for (const claim of claims) this.#claimed.delete(claim);
    }
  }

  async #create(order: NewDisk, settings: DiskSettings, deployment: string | undefined): Promise<HeldDisk> {
    const { name, adopt, size } = order;
    const { store, options, runner } = this.#parts;
    if (adopt !== (await isThere(settings.image))) throw adopt ? nothingThere(settings) : somethingThere(settings);
    const record: DiskRecord = {
      id: `${name}@${randomUUID().slice(0, 8)}`,
      name,
      state: adopt ? "ready" : "creating",
      settings,
      address: { kind: "unix", path: join(options.socketDirectory, `${name}.sock`) },
      ...(size !== undefined && { newSize: size }),
      ownsFile: !adopt,
      ...(deployment !== undefined && { deployment }),
      createdAt: Date.now(),
    };
    await store.putDisk(record);
    let held: HeldDisk | undefined;
    let made = false;
    try {
      if (!adopt) await this.#makeFile(record);
      made = !adopt;
      const ready: DiskRecord = { ...record, state: "ready" };
      if (!adopt) await store.putDisk(ready);
      held = this.#hold(ready);
      const { host, turns } = held;
      await turns.run(() => host.demand());
      await this.stories.created(ready);
      const { stream } = order;
      if (stream) {
        const { speed, priority = 0 } = stream === true ? {} : stream;
        await turns.run(() => runner.start(ready.id, { priority, ...(speed !== undefined && { speed }) }));
      }
      return held;
    } catch (error) {
      await this.#undo(record, held, made);
      throw error;
    }
  }

  async #makeFile({ settings, newSize: size }: DiskRecord): Promise<void> {
    const { image, format = "qcow2", backing, backingFormat } = settings;
    const { sourceOptions } = this.#parts.options;
    await createImage(image, {
      format,
      sourceOptions,
      ...(size !== undefined && { size }),
      ...(backing !== undefined && { backing }),
      ...(backingFormat !== undefined && { backingFormat }),
    });
  }

  async #undo(record: DiskRecord, held: HeldDisk | undefined, made: boolean): Promise<void> {
    await this.#parts.runner.detach(record.id, "it could not be made");
    await held?.host.close().catch(() => {});
    this.#byName.delete(record.name);
    this.#parts.needs.forget(record.id);
    // What cannot be taken away stays with its record, which says so at the next start.
    if (made) await rm(record.settings.image, { force: true });
    await this.#parts.store.deleteDisk(record.id);
  }

  /** @throws {StreamdiskError} `exists` for a name or an image that is a disk's already, or a deployment's, unless it is this one */
  refuseTaken(name: string, image: string, deployment?: string): void {
    const other = this.#parts.reserved(name, image);
    if (other !== undefined && other.id !== deployment) {
      throw new StreamdiskError("exists", `The disk '${name}' is of the deployment '${other.name}'`, { node: name });
    }
    if (this.#byName.has(name) || this.#claimed.has(`name ${name}`)) {
      throw new StreamdiskError("exists", `There is a disk '${name}' already`, { node: name });
    }
    const there = this.all().find(({ record }) => record.settings.image === image);
    if (there === undefined && !this.#claimed.has(`image ${image}`)) return;
    throw new StreamdiskError("exists", `'${image}' is the disk '${there?.record.name ?? ""}' already`, {
      node: image,
    });
  }

  #hold(record: DiskRecord): HeldDisk {
    const { options, runner, allowed } = this.#parts;
    const turns = new Turns();
    const host = new HostedImage({
      spec: async () => ({
        ...(await serveOptions(held.record.settings, held.record.address, allowed, options)),
        ...(held.record.known !== undefined && { knownSources: held.record.known }),
      }),
      onOpen: (served) => {
        this.stories.opened(held, served);
        served.on("learned", (known) => void this.#remember(held, { known }).catch(() => {}));
        // Before the job has ended by it: one that has not is looked at when the disk is opened.
        served.on("base-reached", () => void this.#baseReached(held).catch(() => {}));
        runner.attach(held.record.id, held.record.name, served);
        const look = (): void => void this.#look(held, served).catch(() => {});
        look();
        served.on("base-reached", look);
        served.on("hydrated", look);
        served.on("source", ({ state }) => {
          if (state === "ok") look();
        });
      },
      onFailure: (error) => {
        // One that is being made is undone, and its maker is told.
        if (!this.#claimed.has(`name ${record.name}`)) void this.stories.failed(held.record, error);
      },
      onLost: (error) => {
        void this.stories.lost(held.record, error);
        void runner.detach(held.record.id, "its thread has died").catch(() => {});
      },
      onRetry: () => void turns.run(() => this.#demandOpen(held)).catch(() => {}),
      ...(options.firstRetryMs !== undefined && { firstRetryMs: options.firstRetryMs }),
    });
    const held: HeldDisk = { record, host, turns };
    this.#parts.needs.hold(record.id, knownNeeds(record), record.needs);
    this.#byName.set(record.name, held);
    return held;
  }

  /** What it needs has changed, or is there now. */
  async #look(held: HeldDisk, served: ServedDisk): Promise<void> {
    const { below, backingLength } = await served.info();
    if (held.host.served !== served) return;
    const told = await this.#parts.needs.learn(held.record.id, below);
    await this.#remember(held, {
      ...(told && { needs: below }),
      ...(backingLength !== undefined && { backingLength }),
    });
  }

  /** What is not written down is learned again. */
  async #remember(held: HeldDisk, learned: Pick<DiskRecord, "known" | "needs" | "backingLength">): Promise<void> {
    const { record } = held;
    if (record.state !== "ready" || this.#byName.get(record.name) !== held) return;
    const after = { ...record, ...learned };
    if (JSON.stringify(after) === JSON.stringify(record)) return;
    held.record = after;
    await this.#parts.store.putDisk(after);
  }

  /** Open, unless it has been taken away while its turn was waited for. */
  async #demandOpen(held: HeldDisk): Promise<ServedDisk> {
    if (this.#closed) throw ending();
    if (this.#byName.get(held.record.name) === held) {
      if (held.host.served === undefined) await this.#followImage(held);
      return await held.host.demand();
    }
    const { name } = held.record;
    throw new StreamdiskError("not-found", `The disk '${name}' was deleted`, { node: name });
  }

  /** The daemon, or the disk's thread, may have died after a stream had linked the image to its base. */
  async #followImage(held: HeldDisk): Promise<void> {
    const base = this.#parts.runner.active(held.record.id)?.record.base;
    if (base === undefined || !(await isLinkedTo(base, held.record))) return;
    held.record = overBase(held.record, base);
    await this.#parts.store.putDisk(held.record);
  }

  async #baseReached(held: HeldDisk): Promise<void> {
    const base = this.#parts.runner.active(held.record.id)?.record.base;
    if (base === undefined) return;
    held.record = overBase(held.record, base);
    await this.#parts.store.putDisk(held.record);
    await this.stories.baseReached(held.record.name, base.reference);
  }

  /** Does something with an open disk, in its turn. */
  act<T>(name: string, act: (served: ServedDisk, held: HeldDisk) => Promise<T>): Promise<T> {
    const held = this.demand(name);
    return held.turns.run(async () => act(await this.#demandOpen(held), held));
  }

  delete(name: string, deleteFile: boolean): Promise<void> {
    const held = this.demand(name);
    return held.turns.run(async () => {
      if (this.#byName.get(name) !== held) return;
      if (deleteFile) await this.#refuseDeleting(held.record);
      held.record = { ...held.record, state: "deleting", deleteFile };
      await this.#parts.store.putDisk(held.record);
      await this.#finishDeleting(held);
    });
  }

  async #refuseDeleting({ name, settings: { image }, ownsFile }: DiskRecord): Promise<void> {
    if (!ownsFile) {
      const message = `The file '${image}' of '${name}' was there before: the daemon deletes only what it has made`;
      throw new StreamdiskError("refused", message, { node: name });
    }
    const above = await findAbove(image, this.all());
    if (above === undefined) return;
    const message = `The file '${image}' of '${name}' lies below '${above.record.name}': delete that first, or stream it`;
    throw new StreamdiskError("refused", message, { node: name });
  }

  async #finishDeleting({ record, host }: HeldDisk): Promise<void> {
    const { id, name, settings, deleteFile, address } = record;
    const { runner, store } = this.#parts;
    if (runner.active(id) !== undefined) await runner.cancel(id, "its disk was deleted");
    await runner.detach(id, "its disk was deleted");
    await host.close();
    if (address.kind === "unix") await removeSocket(address.path);
    if (deleteFile) {
      await rm(settings.image, { force: true }).catch((error: unknown) => {
        throw wrapSystemError(error, settings.image, "delete");
      });
      await syncDirectory(dirname(settings.image));
    }
    await this.#parts.needs.release(id);
    await store.deleteDisk(id);
    this.#byName.delete(name);
    await this.stories.deleted(record);
  }

  async resize(name: string, length: number, shrink: boolean): Promise<void> {
    const { runner } = this.#parts;
    await this.act(name, async (served, { record }) => {
      await runner.detach(record.id, "its disk is resized");
      try {
        await served.resize(length, { shrink });
        await this.stories.resized(name, length);
      } finally {
        runner.attach(record.id, name, served);
      }
    });
  }

  /** Takes a disk away from its guests for a moment, while `change` does something to the image itself. */
  async reopened(held: HeldDisk, change: (record: DiskRecord) => Promise<DiskSettings>): Promise<void> {
    const { runner, store } = this.#parts;
    await held.turns.run(async () => {
      await runner.detach(held.record.id, "its source is replaced");
      await held.host.close();
      try {
        const settings = await change(held.record);
        // What was known of the old source is not true of the new one.
        const { known: _known, backingLength: _length, ...rest } = held.record;
        const record = { ...rest, settings };
        await store.putDisk(record);
        held.record = record;
      } finally {
        // If it fails, it is told of and tried again.
        await this.#demandOpen(held).catch(() => {});
      }
    });
  }
}

function ending(): StreamdiskError {
  return new StreamdiskError("shutdown", "The daemon is ending: call it again when it has been started again");
}
