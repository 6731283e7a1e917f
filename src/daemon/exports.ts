/**
 * Images that are offered to others: the side of a central repository. Each has its own socket or port, which it keeps over restarts;
 * one that cannot be opened is tried again now and then.
 */
import { dirname, join } from "node:path";
import type { NewExport } from "../api/index.ts";
import type { ServeDiskOptions, ServedDisk } from "../engine/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import type { ExportAddress, ExportRecord, Store } from "../jobs/index.ts";
import { formatNbdUri } from "../nbd/index.ts";
import { shownReference } from "../sources/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import { removeSocket } from "./disk-files.ts";
import { HostedImage, serveOptions } from "./disk-host.ts";
import type { EventHub } from "./event-hub.ts";
import { policyOf } from "./new-disk.ts";
import { inParallel } from "./parallel.ts";
import { exportNeeds, type SourceNeeds } from "./source-needs.ts";
import { Turns } from "./turns.ts";

export interface HeldExport {
  record: ExportRecord;
  readonly host: HostedImage;
  readonly turns: Turns;
}

/** An export that nobody has ordered. */
export interface OwnExport extends Required<Pick<ExportRecord, "forDeployments">> {
  readonly onSourceError: SourcePolicy;
}

export interface ExportsParts {
  readonly store: Store;
  readonly needs: SourceNeeds;
  readonly events: EventHub;
  readonly allowed: AllowedPaths;
  readonly options: DaemonOptions;
}

const MOST_AT_ONCE = 8;
/** What an export keeps in memory for deployments that are far apart. */
const MOST_CACHE = 256 * 1024 * 1024;

export class Exports {
  readonly #parts: ExportsParts;
  readonly #byName = new Map<string, HeldExport>();
  readonly #claimed = new Set<string>();
  #closed = false;

  constructor(parts: ExportsParts) {
    this.#parts = parts;
  }

  /** In the order of their names. */
  all(): HeldExport[] {
    return [...this.#byName.values()].sort((a, b) => (a.record.name < b.record.name ? -1 : 1));
  }

  /** Opens all; resolves when each has been tried. */
  async restore(records: readonly ExportRecord[]): Promise<void> {
    const exports = records.map((record) => this.#hold(record));
    for (const held of exports) {
      this.#byName.set(held.record.name, held);
      this.#parts.allowed.addOwn(uriOf(held.record));
    }
    await inParallel(exports, MOST_AT_ONCE, async (held) => {
      const { record, turns } = held;
      await (record.removing ? turns.run(() => this.#finishRemoving(held)) : this.#open(held)).catch(() => {});
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await inParallel(this.all(), MOST_AT_ONCE, ({ host, turns }) => turns.run(() => host.close().catch(() => {})));
  }

  /**
   * Offers an image; undone if anything of it fails.
   *
   * @param own what there is to say of one that the daemon makes for itself
   */
  async add(order: NewExport, own?: OwnExport): Promise<HeldExport> {
    const { name } = order;
    if (this.#byName.has(name) || this.#claimed.has(name)) {
      throw new StreamdiskError("exists", `There is an export '${name}' already`, { node: name });
    }
    this.#claimed.add(name);
    let probe: HeldExport | undefined;
    try {
      probe = this.#hold(await this.#recordOf(order, own));
      const { uri } = await this.#open(probe);
      const held = probe;
      held.record = { ...held.record, address: bound(held.record.address, uri) };
      await this.#parts.store.addExport(held.record);
      this.#byName.set(name, held);
      if (held.host.served !== undefined) void this.#look(held, held.host.served).catch(() => {});
      this.#parts.allowed.addOwn(uriOf(held.record));
      await this.#parts.events.tell(
        "export-added",
        `'${shownReference(held.record.settings.image)}' is offered as '${name}' at ${uri}, also after restarts, until it is removed`,
      );
      return held;
    } catch (error) {
      await probe?.host.close().catch(() => {});
      this.#parts.needs.forget(needOf(name));
      throw error;
    } finally {
      this.#claimed.delete(name);
    }
  }

  async #recordOf(order: NewExport, own: OwnExport | undefined): Promise<ExportRecord> {
    const { name, image, format, readOnly, listen, tlsCertificates, tlsPskFile, maxConnections, cache } = order;
    if (tlsCertificates !== undefined && tlsPskFile !== undefined) {
      throw new StreamdiskError("invalid-argument", `'${name}' has certificates or pre-shared keys, not both`);
    }
    const { allowed } = this.#parts;
    return {
      name,
      settings: {
        image: await allowed.source(image),
        readOnly,
        copyOnRead: false,
        onSourceError: own?.onSourceError ?? policyOf(order.onSourceError),
        ...(format !== undefined && { format }),
      },
      address: await this.#addressOf(name, listen),
      ...(maxConnections !== undefined && { maxConnections }),
      ...(cache !== undefined && { cache }),
      ...(own !== undefined && { forDeployments: own.forDeployments }),
      ...(tlsCertificates !== undefined && { tlsCertificates: await allowed.keys(tlsCertificates) }),
      ...(tlsPskFile !== undefined && { tlsPskFile: await allowed.keys(tlsPskFile) }),
      createdAt: Date.now(),
    };
  }

  async #addressOf(name: string, listen: NewExport["listen"]): Promise<ExportAddress> {
    if ("port" in listen) return { kind: "tcp", host: listen.bind, port: listen.port };
    const { options, allowed } = this.#parts;
    const path =
      listen.socket === undefined
        ? join(options.socketDirectory, `export-${name}.sock`)
        : await allowed.file(listen.socket);
    return { kind: "unix", path };
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  /** What lies behind an URI: the image, if it is that of an export here. */
  behind(uri: string): string {
    const record = this.all().find((held) => uriOf(held.record) === uri)?.record;
    return record === undefined ? uri : shownReference(record.settings.image);
  }

  /** The open export. @throws {StreamdiskError} as opening it may */
  open(name: string): Promise<ServedDisk> {
    return this.#open(this.demand(name));
  }

  /** @throws {StreamdiskError} `not-found` */
  demand(name: string): HeldExport {
    const held = this.#byName.get(name);
    if (held !== undefined) return held;
    const message = `There is no export '${name}': 'streamdisk export ls' lists them`;
    throw new StreamdiskError("not-found", message, { node: name });
  }

  /** @throws {StreamdiskError} `not-found` */
  async remove(name: string): Promise<void> {
    const held = this.demand(name);
    await held.turns.run(async () => {
      if (this.#byName.get(name) !== held) return;
      const record = { ...held.record, removing: true };
      await this.#parts.store.putExport(record);
      held.record = record;
      await this.#finishRemoving(held);
    });
  }

  async #finishRemoving({ record, host }: HeldExport): Promise<void> {
    const { store, events, needs, allowed, options } = this.#parts;
    const { name, address } = record;
    await host.close();
    // Elsewhere it may be another program's by now.
    const isOwn = address.kind === "unix" && dirname(address.path) === options.socketDirectory;
    if (isOwn) await removeSocket(address.path);
    allowed.removeOwn(uriOf(record));
    await needs.release(needOf(name));
    await store.deleteExport(name);
    this.#byName.delete(name);
    await events.tell(
      "export-removed",
      `'${name}' is offered no more, since it was removed: its clients were let go of, and its file stays`,
    );
  }

  /** What it needs has changed, or is there now. */
  async #look(held: HeldExport, served: ServedDisk): Promise<void> {
    const { below } = await served.info();
    const { name } = held.record;
    const places = exportNeeds(held.record, below);
    const told = await this.#parts.needs.learn(needOf(name), places);
    if (!told || this.#byName.get(name) !== held || held.record.removing) return;
    if (JSON.stringify(held.record.needs) === JSON.stringify(places)) return;
    held.record = { ...held.record, needs: places };
    await this.#parts.store.putExport(held.record);
  }

  #hold(record: ExportRecord): HeldExport {
    const { events, needs, allowed, options } = this.#parts;
    const who = needOf(record.name);
    needs.hold(who, record.needs, record.needs);
    const turns = new Turns();
    const spec = async (): Promise<ServeDiskOptions> => ({
      ...(await serveOptions(held.record.settings, held.record.address, allowed, options)),
      exportName: record.name,
      ...(await this.#tlsOf(record)),
      ...(record.maxConnections !== undefined && { maxConnections: record.maxConnections }),
      ...(record.cache !== undefined && { cache: record.cache }),
      ...(record.forDeployments !== undefined && { cacheGrowsTo: MOST_CACHE }),
      relay: record.forDeployments === "engine",
    });
    const host = new HostedImage({
      spec,
      onOpen: (served) => {
        const look = (): void => void this.#look(held, served).catch(() => {});
        look();
        served.on("source", ({ state }) => {
          if (state === "ok") look();
        });
      },
      onFailure: ({ message, code }) => {
        if (this.#claimed.has(record.name)) return;
        const said = `The export '${record.name}' could not be opened: ${message}. It is tried again now and then`;
        void events.tell("disk-failed", said, { code });
      },
      onLost: ({ message, code }) => {
        void events.tell("disk-lost", `${message}: the export '${record.name}' is opened again by itself`, { code });
      },
      onRetry: () => void this.#open(held).catch(() => {}),
      ...(options.firstRetryMs !== undefined && { firstRetryMs: options.firstRetryMs }),
    });
    const held: HeldExport = { record, host, turns };
    return held;
  }

  /** @throws {StreamdiskError} `refused` for keys that may not be used any more */
  async #tlsOf({ tlsCertificates, tlsPskFile }: ExportRecord): Promise<Pick<ServeDiskOptions, "tls">> {
    const { allowed } = this.#parts;
    if (tlsCertificates !== undefined) return { tls: { certificates: await allowed.keys(tlsCertificates) } };
    return tlsPskFile === undefined ? {} : { tls: { pskFile: await allowed.keys(tlsPskFile) } };
  }

  #open(held: HeldExport) {
    return held.turns.run(async () => {
      if (this.#closed) throw new StreamdiskError("shutdown", "The daemon is ending");
      const { name, removing } = held.record;
      if (removing)
        throw new StreamdiskError("not-found", `The export '${name}' was removed meanwhile`, { node: name });
      return await held.host.demand();
    });
  }
}

/** By which an export is known to need something; ids of disks are no such. */
function needOf(name: string): string {
  return `export ${name}`;
}

/** Where clients find it. */
export function uriOf({ name: exportName, address, tlsCertificates, tlsPskFile }: ExportRecord): string {
  const tls = tlsCertificates !== undefined || tlsPskFile !== undefined;
  return address.kind === "unix"
    ? formatNbdUri({ unix: true, socket: address.path, tls, exportName })
    : formatNbdUri({ unix: false, host: address.host, port: address.port, tls, exportName });
}

/** The port that was found free is the export's from now on. */
function bound(address: ExportAddress, uri: string): ExportAddress {
  return address.kind === "tcp" && address.port === 0 ? { ...address, port: Number(new URL(uri).port) } : address;
}
