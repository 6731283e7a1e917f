/**
 * `serveDisk`: a disk for any hypervisor, from one call. It makes plain data of what its caller says, finds a thread, and hands back
 * a handle; the disk itself is `disk.ts`, in that thread.
 */
import { randomUUID } from "node:crypto";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { StreamdiskError } from "../errors/index.ts";
import type { KnownSource, SourcePolicy } from "../filters/index.ts";
import { FORMAT_NAMES, type FormatName } from "../formats/index.ts";
import { isLoopback } from "../host/index.ts";
import { createImage } from "../image/index.ts";
import type { ServeNbdOptions } from "../nbd/index.ts";
import { parseReference, type SourceOptions, shownReference } from "../sources/index.ts";
import type { DiskEvent, DiskSpec, StreamSpec } from "./disk-spec.ts";
import { ServedDisk } from "./served-disk.ts";
import { placeDisk } from "./threads.ts";

export interface ServeDiskOptions {
  /** Path of the image, or a URI: of an NBD export, or, to be only read, of an object on an HTTP server. */
  readonly image: string;
  /** Given, it is believed. Absent, the first bytes decide; of a new image its extension, or qcow2. */
  readonly format?: FormatName;
  /** What lies below, in place of what the image says; a new image records it. */
  readonly backing?: string;
  readonly backingFormat?: FormatName;
  /** Makes the image when it is not there yet. @default false */
  readonly create?: boolean;
  /** Virtual size of a new image, in bytes. Absent: that of the backing file. */
  readonly size?: number;
  /** @default false */
  readonly readOnly?: boolean;
  readonly allowBacking?: readonly string[] | "any";
  /** Certificates and keys for sources that speak TLS; `tls` is for the export. */
  readonly sourceOptions?: SourceOptions;
  /** Starts a stream at once. @default false */
  readonly stream?: boolean | StreamSpec;
  /** Keeps what guests read from below. @default true */
  readonly copyOnRead?: boolean;
  /** What becomes of reads that a dead source cannot answer. @default 30 seconds of waiting, then errors */
  readonly onSourceError?: SourcePolicy;
  /**
   * Bytes of what was read last that are kept in memory: of an image that many are filled from, each range is fetched once. Only with
   * `readOnly`. @default none
   */
  readonly cache?: number;
  /** Bytes up to which `cache` grows while readers are further apart than it is long. @default `cache` */
  readonly cacheGrowsTo?: number;
  /**
   * Clients are streamdisk's own disks: that the source is lost is told to them as such (ESHUTDOWN), so that each does what its own policy
   * says. @default false
   */
  readonly relay?: boolean;
  /** What the event `learned` told of its sources when it was served before. @default nothing */
  readonly knownSources?: readonly KnownSource[];
  /** Where to listen. @default a Unix socket in a private directory */
  readonly listen?: ServeNbdOptions["listen"];
  /** @default "" */
  readonly exportName?: string;
  readonly maxConnections?: number;
  readonly tls?: ServeNbdOptions["tls"];
}

/** What becomes of reads that a dead source cannot answer, when nothing was said. */
export const DEFAULT_POLICY: SourcePolicy = { holdMs: 30_000, afterwards: "error" };

/**
 * Serves a disk over NBD: guests may use it at once, and what is missing comes from below.
 *
 * @example
 * await using disk = await serveDisk({ image: "vm1.qcow2", backing: "debian.qcow2", create: true, stream: true });
 * spawn("qemu-system-x86_64", [...machine, ...disk.qemuArgs()]);
 * await disk.hydrated();
 * @throws {StreamdiskError} whatever opening the image, making it, or listening may throw
 */
export async function serveDisk(options: ServeDiskOptions): Promise<ServedDisk> {
  const { image, backing, allowBacking = [] } = options;
  refuseOpenPort(options);
  refuseCache(options);
  const made = options.create === true && (await makeImage(options));
  const home = options.listen === undefined ? await mkdtemp(join(tmpdir(), "streamdisk-")) : undefined;
  const listen = options.listen ?? { path: join(home as string, "disk.sock"), mode: 0o600 };
  const spec: DiskSpec = {
    image,
    readOnly: options.readOnly ?? false,
    // Whoever names a backing file allows it.
    allowBacking: allowBacking === "any" || backing === undefined ? allowBacking : [...allowBacking, backing],
    copyOnRead: options.copyOnRead ?? true,
    onSourceError: options.onSourceError ?? DEFAULT_POLICY,
    listen,
    exportName: options.exportName ?? "",
    knownSources: options.knownSources ?? [],
    ...(options.sourceOptions !== undefined && { sourceOptions: options.sourceOptions }),
    ...(options.format !== undefined && { format: options.format }),
    ...(backing !== undefined && !made && { backing }),
    ...(options.backingFormat !== undefined && { backingFormat: options.backingFormat }),
    ...(options.relay !== undefined && { relay: options.relay }),
    ...(options.cache !== undefined && { cache: { bytes: options.cache, growsTo: options.cacheGrowsTo } }),
    ...(options.maxConnections !== undefined && { maxConnections: options.maxConnections }),
    ...(options.tls !== undefined && { tls: options.tls }),
    ...(options.stream && { stream: options.stream === true ? {} : options.stream }),
  };
  const early: DiskEvent[] = [];
  let hear = (event: DiskEvent): void => void early.push(event);
  const place = placeDisk(backing ?? image, (event) => hear(event));
  try {
    const { uri } = await place.thread.call(place.id, "open", spec);
    const disk = new ServedDisk(place, {
      uri,
      image: shownReference(image),
      listen,
      exportName: spec.exportName,
      readOnly: spec.readOnly,
      nodeName: nodeName(),
    });
    disk.onClose(() => (home === undefined ? undefined : rm(home, { recursive: true, force: true })));
    // Not before the caller has had a chance to listen.
    setImmediate(() => {
      hear = (event) => disk.hear(event);
      for (const event of early) hear(event);
    });
    return disk;
  } catch (error) {
    await place.thread.leave(place.id);
    if (home !== undefined) await rm(home, { recursive: true, force: true });
    throw error;
  }
}

/** What a guest writes is nobody's to read or change on the way. */
function refuseOpenPort({ listen, tls }: ServeDiskOptions): void {
  if (listen === undefined || "path" in listen || tls !== undefined) return;
  if (isLoopback(listen.host)) return;
  throw new StreamdiskError(
    "refused",
    `'${listen.host}' can be reached from other machines: use TLS there (--tls-certificates or --tls-psk-file), or the loopback`,
  );
}

/** It keeps what was read, and would not see what is written. */
function refuseCache({ image, cache, readOnly }: ServeDiskOptions): void {
  if (cache === undefined || readOnly) return;
  const message = `'${shownReference(image)}' may be written, so what was read of it cannot be kept in memory: serve it read-only`;
  throw new StreamdiskError("invalid-argument", message, { node: shownReference(image) });
}

/** Makes the image if it is not there; says whether it did. */
async function makeImage(options: ServeDiskOptions): Promise<boolean> {
  const { image, format, backing, backingFormat, size, sourceOptions } = options;
  if (parseReference(image).kind !== "file") {
    const message = `'${shownReference(image)}' is a URI, and a new image is a file: name it, and the URI as its backing file`;
    throw new StreamdiskError("invalid-argument", message, { uri: shownReference(image) });
  }
  const there = await stat(image).then(
    () => true,
    () => false,
  );
  if (there) return false;
  if (backing === undefined && size === undefined) {
    throw new StreamdiskError(
      "invalid-argument",
      `'${image}' is not there, and needs a backing file or a size to be made`,
    );
  }
  const extension = FORMAT_NAMES.find((name) => extname(image) === `.${name}`);
  await createImage(image, {
    format: format ?? extension ?? "qcow2",
    ...(backing !== undefined && { backing }),
    ...(backingFormat !== undefined && { backingFormat }),
    ...(size !== undefined && { size }),
    ...(sourceOptions !== undefined && { sourceOptions }),
  });
  return true;
}

/** QEMU's node names have at most 31 characters and begin with a letter. */
function nodeName(): string {
  return `streamdisk-${randomUUID().slice(0, 8)}`;
}
