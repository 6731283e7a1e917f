/**
 * What goes over the API, as zod schemas: they check what comes in, they are the types of what goes out, and the OpenAPI document is
 * made from them. All amounts are bytes, all times milliseconds since 1970 or ISO 8601 where they say so. Runs in a browser too.
 */
import { z } from "zod";
import { diskName, formatName, reference } from "./names.ts";

// A page with a strict content security policy may not make code at run time, and is not to be seen trying.
z.config({ jitless: "document" in globalThis });

const bytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
/** Bytes a second. */
const rate = bytes.min(1);

export const newSource = z
  .object({ backing: reference, backingFormat: formatName.optional(), force: z.boolean().default(false) })
  .strict();

export const sourcePolicy = z
  .object({
    holdMs: z.number().int().min(0).max(86_400_000).nullable().describe("null holds without a limit"),
    afterwards: z.enum(["error", "pause"]),
  })
  .strict()
  .describe("What becomes of requests that a dead source cannot answer");

export const address = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("unix"), path: z.string() }),
  z.object({ kind: z.literal("tcp"), host: z.string(), port: z.number().int() }),
]);

export const jobState = z.enum(["created", "running", "paused", "waiting", "completed", "cancelled", "failed"]);

export const job = z
  .object({
    id: z.string(),
    disk: z.string().describe("Name of the disk"),
    state: jobState,
    reason: z
      .object({
        code: z.string(),
        message: z.string(),
        offset: bytes.optional(),
        length: bytes.optional(),
        retryInMs: z.number().optional(),
      })
      .optional(),
    offset: bytes.describe("Everything below is done"),
    length: bytes.describe("Virtual size of the disk"),
    localBytes: bytes,
    missingBytes: bytes,
    copiedBytes: bytes,
    rate: z.number().describe("Bytes a second, lately"),
    etaSeconds: z.number().optional(),
    speed: rate.optional(),
    base: z.string().optional().describe("The layer that stays below the disk; absent: it will stand alone"),
    share: z
      .number()
      .optional()
      .describe("Bytes a second that it may take now: its speed, or its part of the limits of all and of its sources"),
    priority: z.number().int(),
    createdAt: z.number(),
    startedAt: z.number().optional(),
    endedAt: z.number().optional(),
  })
  .describe("A stream, from its order to its end");

const count = z.number().int().min(0);
const microseconds = z.number().min(0);

const latency = z
  .object({
    totalUs: microseconds.describe("Of all together"),
    p50Us: microseconds,
    p90Us: microseconds,
    p99Us: microseconds,
  })
  .describe("Microseconds from when a request was there until its reply was sent, at most a sixteenth too many");

const traffic = z
  .object({
    reads: count,
    writes: count,
    flushes: count,
    other: count,
    errors: count.describe("What was answered with an error counts here, and nowhere else"),
    readBytes: bytes,
    writtenBytes: bytes,
    readLatency: latency,
    writeLatency: latency,
  })
  .describe("What was asked for so far, and how long it took");

export const nbdClient = traffic
  .extend({
    peer: z.string().describe('Address and port; "unix" over a Unix socket'),
    tls: z.boolean(),
    since: z.number().describe("When it connected"),
    inFlight: count.describe("Requests under way"),
  })
  .describe("A connection of a client, and what it has had");

export const loadSample = z
  .object({
    at: z.number(),
    reads: count.describe("Requests a second, as all that follows is a second"),
    writes: count,
    readBytes: bytes,
    writtenBytes: bytes,
    fetchedBytes: bytes.describe("What came from below for reads of guests"),
    streamedBytes: bytes.describe("What came from below for a stream"),
    readP50Us: microseconds.describe("Microseconds that half of the reads took at most; 0 when there were none"),
    readP99Us: microseconds,
    writeP99Us: microseconds,
  })
  .describe("What a disk had to do in the second before `at`; a second without anything has no sample");
const sourceState = z.object({
  state: z.enum(["ok", "lost", "changed", "deleted", "none"]),
  message: z.string().optional(),
  since: z.number().optional().describe("Since when it is so; at most since the disk was opened"),
  held: z.number().int().describe("Guest requests that wait for it"),
});

const layerBelow = z.object({
  uri: z.string().describe("Path or URI, without what gives access to it"),
  host: z.string().describe("`this host` for files and Unix sockets"),
});

export const disk = z
  .object({
    id: z.string(),
    name: diskName,
    state: z.enum(["creating", "ready", "failed", "deleting"]).describe("failed: it could not be opened; see error"),
    error: z.object({ code: z.string(), message: z.string() }).optional(),
    image: z.string(),
    format: formatName.optional(),
    backing: z.string().optional(),
    readOnly: z.boolean(),
    copyOnRead: z.boolean(),
    onSourceError: sourcePolicy,
    address,
    uri: z.string().optional().describe("NBD URI, while it is served"),
    length: bytes.optional(),
    localBytes: bytes.optional(),
    zeroBytes: bytes.optional(),
    missingBytes: bytes.optional().describe("What is gone if the source dies now"),
    below: z
      .array(layerBelow)
      .optional()
      .describe("In wide lists: what it depends on, from the top down; of one that is not open, what it was made over"),
    hydrated: z.boolean().optional(),
    clients: z.number().int().optional(),
    source: sourceState.optional(),
    fetchedBytes: bytes.optional().describe("What reads of guests have fetched since it was opened"),
    streamedBytes: bytes.optional().describe("What streams have fetched since it was opened"),
    traffic: traffic.optional().describe("Since it was opened, also of clients that have gone"),
    load: loadSample.optional().describe("Of the last second; absent when nothing happened"),
    stream: job.optional().describe("The one that has not ended, or the last"),
    warnings: z.array(z.string()),
    createdAt: z.number(),
  })
  .describe("A disk that the daemon keeps");

export const newDisk = z
  .object({
    name: diskName,
    image: reference.optional().describe("Path of the file; absent: NAME.FORMAT in the daemon's image directory"),
    format: formatName.optional(),
    adopt: z.boolean().default(false).describe("The image is there already"),
    size: bytes.optional(),
    backing: reference.optional(),
    backingFormat: formatName.optional(),
    readOnly: z.boolean().default(false),
    copyOnRead: z.boolean().default(true),
    onSourceError: sourcePolicy.optional(),
    stream: z
      .union([
        z.boolean(),
        z.object({ speed: rate.optional(), priority: z.number().int().min(-100).max(100).optional() }).strict(),
      ])
      .optional(),
  })
  .strict();

export const nbdExport = z
  .object({
    name: diskName,
    image: z.string(),
    format: formatName.optional(),
    readOnly: z.boolean(),
    address,
    uri: z.string().optional(),
    onSourceError: sourcePolicy,
    source: sourceState.optional().describe("Of one that is open"),
    cache: bytes.optional().describe("What it keeps in memory of what was read last, at most"),
    error: z.object({ code: z.string(), message: z.string() }).optional(),
    clients: z.number().int(),
    createdAt: z.number(),
  })
  .describe("An image that is offered to others");

export const newExport = z
  .object({
    name: diskName,
    image: reference,
    format: formatName.optional(),
    readOnly: z.boolean().default(true),
    listen: z
      .union([
        z.object({ socket: reference.optional() }).strict(),
        z
          .object({ port: z.number().int().min(0).max(65_535), bind: z.string().max(255).default("127.0.0.1") })
          .strict(),
      ])
      .default({}),
    onSourceError: sourcePolicy.optional(),
    cache: bytes
      .min(2 ** 20)
      .max(2 ** 40)
      .optional()
      .describe(
        "Keep so much in memory of what was read last, for an image that many are filled from; only of a read-only one",
      ),
    tlsCertificates: reference.optional(),
    tlsPskFile: reference.optional(),
    maxConnections: z.number().int().min(1).max(10_000).optional(),
  })
  .strict();

export const source = z
  .object({
    uri: z.string().describe("Without what gives access to it"),
    state: z
      .enum(["ok", "deleted", "lost", "changed"])
      .describe("As its disks and exports see it; deleted: read on until its disks are closed"),
    since: z
      .number()
      .optional()
      .describe(
        "Since when it is so for the first of the disks, at most since that was opened; absent when none that is open needs it",
      ),
    disks: z.array(z.string()).describe("Disks that still need it; when nothing needs it, it may go"),
    exports: z.array(z.string()).describe("Exports that are read from it"),
    domains: z.array(z.string()).describe("Machines with disks that QEMU fills from it, as far as is known"),
    missingBytes: bytes,
    requests: z.number().int().describe("That it was asked since its disks were opened"),
    fetchedBytes: bytes.describe("That it gave since then"),
    errors: z.number().int().describe("Requests that it failed"),
    lastError: z.object({ code: z.string(), message: z.string(), time: z.number() }).optional(),
    latency: z
      .object({ p50: z.number(), p99: z.number() })
      .optional()
      .describe("Milliseconds within which half of the reads, and 99 of 100, were answered"),
    speed: rate.optional().describe("Bytes a second that the streams from it may take together"),
  })
  .describe("Where the bytes of disks and exports come from");

/** What is said of how fast streams may be. */
export const limit = z
  .object({
    place: z.string().describe("`all` streams, `each` source by itself, or a path or the beginning of a URI"),
    speed: rate.nullable().describe("Bytes a second, shared by the streams from there; null: no limit"),
    setBy: z.enum(["api", "settings", "default"]).describe("api: it was set here, and is remembered"),
  })
  .describe("How fast the streams from a place may be together");

export const event = z
  .object({
    id: z.number().int(),
    time: z.number(),
    type: z.string(),
    disk: z.string().optional(),
    job: z.string().optional(),
    source: z.string().optional().describe("Path or URI of the source that it is about"),
    message: z.string(),
    code: z.string().optional(),
    offset: bytes.optional(),
    length: bytes.optional(),
  })
  .describe("Something that happened");

export const mapRun = z.object({
  start: bytes,
  length: bytes,
  depth: z.number().int(),
  present: z.boolean(),
  zero: z.boolean(),
  data: z.boolean(),
  missing: z.boolean(),
  offset: bytes.optional(),
});

export const cells = z
  .object({
    offset: bytes,
    cellLength: bytes.describe("Of each cell; the last may be shorter"),
    local: z
      .base64()
      .describe("How much of each cell is data in the image itself. Base64: one byte a cell, from 0 to 255 (all)"),
    missing: z.base64().describe("The same of what is missing; what is neither is known to be zero"),
    complete: z
      .boolean()
      .describe("false: not all that is missing could be asked about in time; what is zero counts as missing"),
  })
  .describe("A part of a disk's map in equal cells, for drawing");

const ranges = z.array(bytes).readonly();

export const live = z
  .object({
    fetched: ranges.describe("Became local by the stream: offset and length of each range, one after the other"),
    read: ranges.describe("The same: became local because a guest has read it"),
    written: ranges.describe("The same: written by a guest"),
    zeroed: ranges.describe("The same: zeroed or discarded by a guest"),
    inFlight: ranges.describe("The same: on its way from the source, now"),
    waiting: ranges.describe("The same: what requests of guests wait for, now"),
    inexact: z.boolean().describe("Ranges were widened or left out: ask for the cells again"),
    source: sourceState,
    clients: z.number().int(),
    stream: job.optional().describe("The one that has not ended"),
  })
  .describe("What goes on in a disk: what has changed since the last message, and how it is now");

export const daemonInfo = z.object({
  version: z.string(),
  node: z.string(),
  startedAt: z.number(),
  disks: z.number().int(),
  streams: z.number().int(),
  maxStreams: z.number().int(),
  imageDirectory: z.string(),
  damage: z.array(z.string()).optional().describe("What was damaged in its store when it was started, and is lost"),
});

/** RFC 9457. */
export const problem = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.number().int(),
    detail: z.string(),
    code: z.string().describe("One of the table of errors"),
    context: z.record(z.string(), z.unknown()).optional(),
  })
  .describe("What went wrong");

export type Disk = z.infer<typeof disk>;
export type NewDisk = z.infer<typeof newDisk>;
export type NbdExportView = z.infer<typeof nbdExport>;
export type NewExport = z.infer<typeof newExport>;
export type Job = z.infer<typeof job>;
export type Limit = z.infer<typeof limit>;
export type Source = z.infer<typeof source>;
export type Event = z.infer<typeof event>;
export type NbdClient = z.infer<typeof nbdClient>;
export type LoadSample = z.infer<typeof loadSample>;
export type MapRun = z.infer<typeof mapRun>;
export type Cells = z.infer<typeof cells>;
export type Live = z.infer<typeof live>;
export type DaemonInfo = z.infer<typeof daemonInfo>;
export type Problem = z.infer<typeof problem>;

/** Schemas that have a name of their own in the OpenAPI document. */
export const NAMED_SCHEMAS: Readonly<Record<string, z.ZodType>> = {
  Cells: cells,
  DaemonInfo: daemonInfo,
  Disk: disk,
  Event: event,
  Export: nbdExport,
  Job: job,
  LoadSample: loadSample,
  Live: live,
  Limit: limit,
  MapRun: mapRun,
  NbdClient: nbdClient,
  NewDisk: newDisk,
  NewExport: newExport,
  Problem: problem,
  Source: source,
  SourcePolicy: sourcePolicy,
};
