/**
 * A daemon with all that it needs: its directory, its store, its disks, and where it listens. The API comes last, when what was served
 * before is served again; at the end it goes first.
 */
import { mkdir } from "node:fs/promises";
import { wrapSystemError } from "../errors/index.ts";
import { groupId, serviceManager } from "../host/index.ts";
import { adoptImages, type ImagePlaces } from "./adopt-images.ts";
import { Daemon } from "./daemon.ts";
import { httpApp } from "./http-app.ts";
import { type HttpServer, serveTcp, serveUnix } from "./http-server.ts";
import { openLog } from "./log.ts";
import { pageFiles } from "./page-files.ts";
import { ServiceReports } from "./service-reports.ts";
import type { DaemonSettings } from "./settings.ts";
import { SqliteStore } from "./sqlite-store.ts";
import { openStateDirectory } from "./state-directory.ts";
import type { StoreDamage } from "./store-damage.ts";
import { tokenIn } from "./token-file.ts";

export interface RunDaemonOptions {
  readonly version: string;
  /** Begins anew when the store is damaged, with the images that are there, and keeps the damaged one aside. @default false */
  readonly rebuildStore?: boolean;
}

/** A daemon that runs. */
export interface RunningDaemon {
  /** Where its API is. */
  readonly addresses: readonly string[];
  /** Where its page is, with and without the token that it needs; absent when it has none, or listens on no TCP port. */
  readonly page?: { readonly url: string; readonly withToken: string };
  readonly disks: number;
  readonly exports: number;
  /** What was done at the start that its user should know, as sentences. */
  readonly notes: readonly string[];
  /** Ends it in order: the API, then guests, then images. */
  close(): Promise<void>;
}

/** How long requests under way may take at the end. */
const GRACE_MS = 2_000;
/** All users but the owner, in a mode. */
const OTHERS = 0o077;

/**
 * Starts a daemon.
 *
 * @throws {StreamdiskError} `in-use` when another has its directory or its socket; whatever opening its store may throw
 */
export async function runDaemon(settings: DaemonSettings, options: RunDaemonOptions): Promise<RunningDaemon> {
  /** How to end what has been started, from the last to the first. */
  const ends: (() => Promise<void> | void)[] = [];
  const close = async (): Promise<void> => {
    for (let end = ends.pop(); end !== undefined; end = ends.pop()) await end();
  };
  try {
    return { ...(await start(settings, options, ends)), close };
  } catch (error) {
    await close().catch(() => {});
    throw error;
  }
}

async function start(
  settings: DaemonSettings,
  { version, rebuildStore = false }: RunDaemonOptions,
  ends: (() => Promise<void> | void)[],
): Promise<Omit<RunningDaemon, "close">> {
  const { diskSocketMode = 0, diskSocketGroup } = settings;
  const enterable = diskSocketGroup !== undefined || (diskSocketMode & OTHERS) !== 0;
  // Said once, and not by each disk.
  if (diskSocketGroup !== undefined) await groupId(diskSocketGroup);
  const directory = openStateDirectory(settings.stateDirectory, { enterable });
  ends.push(() => directory[Symbol.dispose]());
  await makeDirectory(settings.imageDirectory);
  const log = openLog({ level: settings.logLevel });
  const reports = new ServiceReports(serviceManager(), log);
  reports.status("Disks and exports are served again");
  const store = new SqliteStore(directory, { rebuild: rebuildStore });
  ends.push(() => store.close());
  const places = { imageDirectory: settings.imageDirectory, socketDirectory: directory.sockets };
  const damage = [...store.damage, ...(await adoptLost(store, places))];
  const notes = [...store.notes, ...damage.map(({ message }) => message)];
  for (const note of notes) log.warn({}, note);
  const [disks, exports] = await Promise.all([store.disks(), store.exports()]);
  const own = { socketDirectory: directory.sockets, machineDirectory: directory.machines, damage };
  const daemon = await Daemon.start(store, { ...settings, ...own, version }, log);
  ends.push(() => daemon.close());

  const token = settings.listen && (await tokenIn(settings.tokenFile));
  const access = token === undefined ? {} : { token };
  const closing = new AbortController();
  const watch = daemon.watch.bind(daemon);
  const page = await pageFiles();
  const app = httpApp(daemon, { events: daemon.feed, watch, access, page, log, closing: closing.signal });
  const servers: HttpServer[] = [];
  ends.push(async () => {
    closing.abort();
    await Promise.all(servers.map((server) => server.close(GRACE_MS)));
  });
  const { socket: path, socketMode: mode, socketGroup: group, listen, tlsCertificates } = settings;
  servers.push(
    await serveUnix(app, { path, ...(mode !== undefined && { mode }), ...(group !== undefined && { group }) }),
  );
  if (listen !== undefined) {
    const tls = tlsCertificates === undefined ? {} : { tlsCertificates };
    servers.push(await serveTcp(app, { ...listen, ...tls }, access));
  }
  reports.ready(daemon);
  ends.push(() => reports.stopping());
  const addresses = servers.map(({ address }) => address);
  const [, url] = addresses;
  return {
    addresses,
    // What stands after the '#' no browser sends to anybody.
    ...(url !== undefined &&
      page.size > 0 && { page: { url: `${url}/`, withToken: `${url}/#token=${encodeURIComponent(token ?? "")}` } }),
    disks: disks.length,
    exports: exports.length,
    notes,
  };
}

/** Disks whose records are lost; all images that are none, when nobody knows what is lost. */
async function adoptLost(store: SqliteStore, places: ImagePlaces): Promise<StoreDamage[]> {
  const lost = new Map(
    store.damage.flatMap(({ disk, diskId }) => (disk === undefined ? [] : [[disk, diskId] as const])),
  );
  if (!store.rebuilt && lost.size === 0) return [];
  const notes = await adoptImages(store, store.rebuilt ? places : { ...places, lost });
  return notes.map((message) => ({ message }));
}

async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw wrapSystemError(error, path, "make the directory");
  }
}
