/**
 * The settings of a daemon: what the flags say, else what the configuration file says, else a default. The file is one JSON object,
 * `/etc/streamdisk/daemon.json` for root and `streamdisk/daemon.json` below the XDG configuration directory for others; it need not
 * be there unless it was named. A file with a member that nobody knows is refused: a misspelt limit is no limit.
 */
import { open } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { type SettingsFile, settingsFile } from "../api/index.ts";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { isLoopback } from "../host/index.ts";
import type { Accelerator } from "../jobs/index.ts";
import type { SourceOptions } from "../sources/index.ts";

export interface DaemonSettings {
  readonly stateDirectory: string;
  /** @default `images` in the state directory */
  readonly imageDirectory: string;
  /** @default `daemon.sock` in the state directory */
  readonly socket: string;
  /** Who may use the API there. @default 0o600, with a group 0o660 */
  readonly socketMode?: number;
  readonly socketGroup?: string;
  /** The same of the sockets of disks and exports, for a QEMU that runs as another user. */
  readonly diskSocketMode?: number;
  readonly diskSocketGroup?: string;
  /** The API over TCP, only when asked for. */
  readonly listen?: { readonly host: string; readonly port: number };
  /** @default `token` in the state directory */
  readonly tokenFile: string;
  readonly tlsCertificates?: string;
  /** Absolute paths and beginnings of URIs. */
  readonly allow: readonly string[];
  /** Directories and files with certificates and keys that exports may use; absolute. @default none */
  readonly allowKeys: readonly string[];
  /** Certificates and keys for sources that speak TLS. @default none */
  readonly sourceOptions: SourceOptions;
  /** @default 4 */
  readonly maxStreams: number;
  /** Bytes a second of each stream that does not say; undefined for no limit. */
  readonly speed?: number;
  /** Bytes a second of all streams together; undefined for no limit. */
  readonly hostSpeed?: number;
  /** Bytes a second of all streams from one source together; undefined for no limit. */
  readonly sourceSpeed?: number;
  /** The same by source: absolute paths and beginnings of URIs, each with all that lies below it. */
  readonly sources?: Readonly<Record<string, { readonly speed: number }>>;
  /** QEMU's program for machines; absolute. @default qemu-system-ARCH on the PATH */
  readonly emulator?: string;
  /** What runs machines that do not say. @default KVM where it may be used, else TCG */
  readonly accelerator?: Accelerator;
  /** Whether machines with arguments of QEMU's of their own are refused, by which QEMU can open anything. @default false */
  readonly refuseQemuArguments?: boolean;
  /** @default 10,000 events and 1,000 jobs */
  readonly keep: { readonly events: number; readonly jobs: number };
  /** @default "info" */
  readonly logLevel: NonNullable<SettingsFile["logLevel"]>;
}

export interface SettingsSources {
  /** A configuration file, which must be there. */
  readonly file?: string;
  /** What the command line says; paths may be relative to the working directory. Members that are undefined say nothing. */
  readonly flags?: SettingsFlags;
  /** @default process.env */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Whether the daemon is root's. */
  readonly root?: boolean;
}

export type SettingsFlags = Partial<Omit<DaemonSettings, "keep">> & { readonly keep?: Partial<DaemonSettings["keep"]> };

const MOST_FILE_BYTES = 64 * 1024;
/** What fits into a `struct sockaddr_un`, with its end (unix(7)). */
const MOST_SOCKET_PATH_BYTES = 107;
const DEFAULT_KEEP = { events: 10_000, jobs: 1_000 };

/**
 * Reads the settings.
 *
 * @throws {StreamdiskError} `invalid-argument` that names the file and the setting; `not-found`, `permission`
 */
export async function readSettings(from: SettingsSources = {}): Promise<DaemonSettings> {
  const environment = from.environment ?? process.env;
  const root = from.root ?? process.getuid?.() === 0;
  const path = resolve(from.file ?? join(configDirectory(environment, root), "daemon.json"));
  const file = await readFileSettings(path, from.file === undefined);
  const flags = from.flags ?? {};
  const said = { ...file, ...absolute(flags), keep: { ...file.keep, ...defined(flags.keep ?? {}) } };
  const sourceOptions = { ...file.sourceOptions, ...absolutePaths(flags.sourceOptions ?? {}) };
  const stateDirectory = said.stateDirectory ?? defaultStateDirectory(environment, root);
  const settings: DaemonSettings = {
    imageDirectory: join(stateDirectory, "images"),
    socket: join(stateDirectory, "daemon.sock"),
    tokenFile: join(stateDirectory, "token"),
    allow: [],
    allowKeys: [],
    maxStreams: 4,
    logLevel: "info",
    ...said,
    stateDirectory,
    sourceOptions,
    ...(file.sources !== undefined && { sources: { ...file.sources, ...said.sources } }),
    keep: { ...DEFAULT_KEEP, ...said.keep },
  };
  refuseWhatCannotBe(settings);
  return settings;
}

async function readFileSettings(path: string, mayBeAbsent: boolean): Promise<SettingsFile> {
  const text = await readBounded(path, mayBeAbsent);
  if (text === undefined) return {};
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`Settings file '${path}' is not JSON: ${error instanceof Error ? error.message : error}`, path);
  }
  const checked = settingsFile.safeParse(value);
  if (checked.success) return checked.data;
  throw invalid(`Settings file '${path}': ${checked.error.issues.map(complaint).join("; ")}`, path);
}

async function readBounded(path: string, mayBeAbsent: boolean): Promise<string | undefined> {
  try {
    await using file = await open(path);
    const { bytesRead, buffer } = await file.read(Buffer.alloc(MOST_FILE_BYTES + 1), 0);
    if (bytesRead <= MOST_FILE_BYTES) return buffer.toString("utf8", 0, bytesRead);
  } catch (error) {
    if (mayBeAbsent && (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw wrapSystemError(error, path, "read the settings file");
  }
  throw invalid(`Settings file '${path}' is longer than ${MOST_FILE_BYTES} bytes`, path);
}

interface Issue {
  readonly code: string;
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly keys?: readonly string[];
}

function complaint({ code, path, message, keys = [] }: Issue): string {
  const where = path.map(String);
  if (code === "unrecognized_keys") {
    return keys.map((key) => `there is no setting '${[...where, key].join(".")}'`).join("; ");
  }
  const what = message.replace(/^Invalid [^:]*: /, "");
  return where.length === 0 ? what : `'${where.join(".")}': ${what}`;
}

function configDirectory(environment: Readonly<Record<string, string | undefined>>, root: boolean): string {
  if (root) return "/etc/streamdisk";
  return join(xdg(environment.XDG_CONFIG_HOME) ?? join(environment.HOME ?? homedir(), ".config"), "streamdisk");
}

function defaultStateDirectory(environment: Readonly<Record<string, string | undefined>>, root: boolean): string {
  if (root) return "/var/lib/streamdisk";
  return join(xdg(environment.XDG_STATE_HOME) ?? join(environment.HOME ?? homedir(), ".local/state"), "streamdisk");
}

/** A relative one is to be ignored (XDG Base Directory Specification, "Environment variables"). */
function xdg(path: string | undefined): string | undefined {
  return path?.startsWith("/") ? path : undefined;
}

const PATHS = ["stateDirectory", "imageDirectory", "socket", "tokenFile", "tlsCertificates", "emulator"] as const;

function absolute(flags: SettingsFlags): Omit<SettingsFlags, "keep" | "sourceOptions"> {
  const { keep: _keep, sourceOptions: _sourceOptions, ...said } = defined(flags);
  const paths = PATHS.flatMap((key) => (said[key] === undefined ? [] : [[key, resolve(said[key])]]));
  const allow = said.allow?.map((place) => (/^[A-Za-z][A-Za-z0-9+.-]*:/.test(place) ? place : resolve(place)));
  const allowKeys = said.allowKeys?.map((path) => resolve(path));
  return {
    ...said,
    ...Object.fromEntries(paths),
    ...(allow !== undefined && { allow }),
    ...(allowKeys !== undefined && { allowKeys }),
  };
}

function absolutePaths(paths: SourceOptions): SourceOptions {
  return Object.fromEntries(Object.entries(defined(paths)).map(([key, path]) => [key, resolve(path)]));
}

function defined<T extends object>(values: T): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T;
}

/** Settings that are each in order and do not go together. */
function refuseWhatCannotBe({ socket, listen, tlsCertificates }: DaemonSettings): void {
  const bytes = Buffer.byteLength(socket);
  if (bytes > MOST_SOCKET_PATH_BYTES) {
    throw invalid(
      `The socket '${socket}' has a path of ${bytes} bytes, and the system takes ${MOST_SOCKET_PATH_BYTES}: name a shorter one with --socket`,
      socket,
    );
  }
  if (listen !== undefined && !isLoopback(listen.host) && tlsCertificates === undefined) {
    throw invalid(
      `The API is to listen on '${listen.host}', which others can reach: that takes certificates (--tls-certificates)`,
    );
  }
}

function invalid(message: string, node?: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", message, node === undefined ? {} : { node });
}
