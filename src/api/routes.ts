/**
 * The one table of the API's calls. The daemon answers them, the client makes them, and the OpenAPI document lists them, all from here;
 * the types of the three follow. Streams of events, metrics and health are no calls, and lie beside it.
 */
import { z } from "zod";
import { DOMAIN_ROUTES } from "./domain-routes.ts";
import { route } from "./route.ts";
import {
  cells,
  daemonInfo,
  disk,
  diskName,
  event,
  formatName,
  job,
  jobState,
  limit as limitSchema,
  live,
  loadSample,
  mapRun,
  nbdClient,
  nbdExport,
  newDisk,
  newExport,
  reference,
  source,
  streamName,
} from "./schemas.ts";

const bytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const TRUTH: ReadonlyMap<string, boolean> = new Map([
  ["true", true],
  ["false", false],
]);
const limit = inQuery(z.number().int().min(1).max(1000)).default(100);
const flag = inQuery(z.boolean());
const noInput = z.object({}).strict();
const nothing = z.undefined();

/** Of a query, in which everything is text. What is no plain number and no truth value stays text, for the schema to refuse. */
function inQuery<S extends z.ZodNumber | z.ZodBoolean>(schema: S) {
  return z.preprocess((value: z.input<S> | string) => {
    if (typeof value !== "string") return value;
    return /^\d{1,16}$/.test(value) ? Number(value) : (TRUTH.get(value) ?? value);
  }, schema);
}

const ofDisk = z.object({ disk: diskName }).strict();
/** Of a domain's disk too: `DOMAIN:DEVICE`. */
const ofStream = z.object({ disk: streamName }).strict();
const ofExport = z.object({ export: diskName }).strict();

const clients = z.object({ clients: z.array(nbdClient) });

export const ROUTES = {
  daemon: route({
    method: "GET",
    path: "/v1/daemon",
    summary: "What this daemon is",
    result: daemonInfo,
    status: 200,
    errors: [],
  }),
  listDisks: route({
    method: "GET",
    path: "/v1/disks",
    summary: "The disks, in the order of their names",
    query: z
      .object({
        after: diskName.optional(),
        limit,
        hydrated: flag.optional(),
        source: z.string().max(4096).optional().describe("Only disks that depend on this path or URI"),
        host: z.string().max(255).optional().describe("Only disks that depend on this host; `this host` for files"),
        wide: flag.optional().describe("With what each depends on"),
      })
      .strict(),
    result: z.object({ disks: z.array(disk), next: diskName.optional() }),
    status: 200,
    errors: [],
  }),
  createDisk: route({
    method: "POST",
    path: "/v1/disks",
    summary: "Make an overlay over a source, or adopt an image, and serve it from then on",
    body: newDisk,
    result: disk,
    status: 201,
    errors: ["exists", "not-found", "refused", "invalid-image", "in-use", "no-space", "source-lost"],
  }),
  getDisk: route({
    method: "GET",
    path: "/v1/disks/{disk}",
    summary: "One disk",
    params: ofDisk,
    result: disk,
    status: 200,
    errors: ["not-found"],
  }),
  deleteDisk: route({
    method: "DELETE",
    path: "/v1/disks/{disk}",
    summary: "Serve a disk no more; its file stays unless asked",
    params: ofDisk,
    query: z.object({ deleteFile: flag.default(false) }).strict(),
    result: nothing,
    status: 204,
    errors: ["not-found", "refused"],
  }),
  diskMap: route({
    method: "GET",
    path: "/v1/disks/{disk}/map",
    summary: "Where each range of a disk comes from",
    params: ofDisk,
    query: z
      .object({ offset: inQuery(bytes).default(0), limit: inQuery(z.number().int().min(1).max(10_000)).default(1000) })
      .strict(),
    result: z.object({ runs: z.array(mapRun), next: bytes.optional() }),
    status: 200,
    errors: ["not-found"],
  }),
  diskClients: route({
    method: "GET",
    path: "/v1/disks/{disk}/clients",
    summary: "Who is connected to a disk, what each has asked for, and how long it waited",
    params: ofDisk,
    result: clients,
    status: 200,
    errors: ["not-found"],
  }),
  diskLoad: route({
    method: "GET",
    path: "/v1/disks/{disk}/load",
    summary:
      "What a disk had to do, second by second: the last quarter of an hour of work, or what came later than `since`",
    params: ofDisk,
    query: z.object({ since: inQuery(bytes).default(0) }).strict(),
    result: z.object({ samples: z.array(loadSample) }),
    status: 200,
    errors: ["not-found"],
  }),
  diskCells: route({
    method: "GET",
    path: "/v1/disks/{disk}/cells",
    summary: "The map of a disk, or of a part of it, in equal cells, for drawing",
    params: ofDisk,
    query: z
      .object({
        offset: inQuery(bytes).default(0),
        length: inQuery(bytes.min(1)).optional(),
        count: inQuery(z.number().int().min(1).max(4096)).default(1024).describe("How many cells there may be"),
      })
      .strict(),
    result: cells,
    status: 200,
    errors: ["not-found"],
  }),
  diskLive: route({
    method: "GET",
    path: "/v1/disks/{disk}/live",
    summary: "What goes on in a disk; with `Accept: text/event-stream` it goes on, with what changes",
    params: ofDisk,
    result: live,
    status: 200,
    errors: ["not-found"],
  }),
  resizeDisk: route({
    method: "POST",
    path: "/v1/disks/{disk}/resize",
    summary: "Change the virtual size",
    params: ofDisk,
    body: z.object({ length: bytes, shrink: z.boolean().default(false) }).strict(),
    result: disk,
    status: 200,
    errors: ["not-found", "refused", "no-space"],
  }),
  replaceSource: route({
    method: "POST",
    path: "/v1/disks/{disk}/replace-source",
    summary: "Name another place for what is missing, when the source has moved",
    params: ofDisk,
    body: z
      .object({
        backing: z.string().min(1).max(4096),
        backingFormat: formatName.optional(),
        force: z.boolean().default(false),
      })
      .strict(),
    result: disk,
    status: 200,
    errors: ["not-found", "refused", "changed", "source-lost"],
  }),
  startStream: route({
    method: "POST",
    path: "/v1/disks/{disk}/stream",
    summary: "Stream the whole device",
    params: ofStream,
    body: z
      .object({
        base: reference.optional(),
        speed: bytes.min(1).optional(),
        priority: z.number().int().min(-100).max(100).default(0),
      })
      .strict(),
    result: job,
    status: 201,
    errors: ["not-found", "in-use", "refused"],
  }),
  stepStream: route({
    method: "POST",
    path: "/v1/disks/{disk}/step",
    summary: "One increment; returns the offset to go on from",
    params: ofStream,
    body: z
      .object({
        offset: bytes.optional(),
        length: bytes
          .min(1)
          .max(2 ** 30)
          .default(2 ** 20),
      })
      .strict(),
    result: z.object({ next: bytes, copied: bytes, done: z.boolean() }),
    status: 200,
    errors: ["not-found", "in-use", "source-lost", "no-space"],
  }),
  streamInfo: route({
    method: "GET",
    path: "/v1/disks/{disk}/stream",
    summary: "How the last stream is: position, length, state, reason, rate",
    params: ofStream,
    result: job,
    status: 200,
    errors: ["not-found"],
  }),
  pauseStream: route({
    method: "POST",
    path: "/v1/disks/{disk}/stream/pause",
    summary: "Fetch nothing more until it is resumed, also after a restart",
    params: ofStream,
    body: noInput,
    result: job,
    status: 200,
    errors: ["not-found"],
  }),
  resumeStream: route({
    method: "POST",
    path: "/v1/disks/{disk}/stream/resume",
    summary: "Go on",
    params: ofStream,
    body: noInput,
    result: job,
    status: 200,
    errors: ["not-found"],
  }),
  cancelStream: route({
    method: "POST",
    path: "/v1/disks/{disk}/stream/cancel",
    summary: "End the stream; what was fetched stays",
    params: ofStream,
    body: noInput,
    result: job,
    status: 200,
    errors: ["not-found"],
  }),
  setSpeed: route({
    method: "PUT",
    path: "/v1/disks/{disk}/stream/speed",
    summary: "Change the limit of a stream",
    params: ofStream,
    body: z.object({ speed: bytes.min(1).nullable() }).strict(),
    result: job,
    status: 200,
    errors: ["not-found"],
  }),
  listJobs: route({
    method: "GET",
    path: "/v1/jobs",
    summary: "Streams, the newest first",
    query: z
      .object({
        disk: streamName.optional(),
        state: jobState.optional(),
        before: z.string().max(100).optional(),
        limit,
      })
      .strict(),
    result: z.object({ jobs: z.array(job), next: z.string().optional() }),
    status: 200,
    errors: ["not-found"],
  }),
  listExports: route({
    method: "GET",
    path: "/v1/exports",
    summary: "Images that are offered to others",
    result: z.object({ exports: z.array(nbdExport) }),
    status: 200,
    errors: [],
  }),
  addExport: route({
    method: "POST",
    path: "/v1/exports",
    summary: "Offer an image under a name, from now on and after every restart",
    body: newExport,
    result: nbdExport,
    status: 201,
    errors: ["exists", "not-found", "refused", "in-use", "invalid-image"],
  }),
  exportClients: route({
    method: "GET",
    path: "/v1/exports/{export}/clients",
    summary: "Who is connected to an export, what each has asked for, and how long it waited",
    params: ofExport,
    result: clients,
    status: 200,
    errors: ["not-found"],
  }),
  removeExport: route({
    method: "DELETE",
    path: "/v1/exports/{export}",
    summary: "Offer it no more",
    params: ofExport,
    result: nothing,
    status: 204,
    errors: ["not-found"],
  }),
  listSources: route({
    method: "GET",
    path: "/v1/sources",
    summary: "Where the disks' bytes come from, and who still needs them",
    result: z.object({ sources: z.array(source) }),
    status: 200,
    errors: [],
  }),
  listLimits: route({
    method: "GET",
    path: "/v1/limits",
    summary: "How fast streams may be together; what guests read is never limited",
    result: z.object({ limits: z.array(limitSchema) }),
    status: 200,
    errors: [],
  }),
  setLimit: route({
    method: "PUT",
    path: "/v1/limits",
    summary: "Change how fast the streams from a place may be together, from now on and after every restart",
    body: z
      .object({
        place: z
          .string()
          .regex(/^[^\0]{1,4096}$/)
          .describe("`all`, `each` (source), an absolute path, or the beginning of a URI"),
        speed: bytes.min(1).nullable().optional().describe("null: no limit; left out: what the settings say"),
      })
      .strict(),
    result: z.object({ limits: z.array(limitSchema) }),
    status: 200,
    errors: [],
  }),
  listEvents: route({
    method: "GET",
    path: "/v1/events",
    summary: "What happened, in order; with `Accept: text/event-stream` it goes on, by default from now",
    query: z.object({ after: inQuery(bytes).optional(), disk: streamName.optional(), limit }).strict(),
    result: z.object({ events: z.array(event) }),
    status: 200,
    errors: [],
  }),
  ...DOMAIN_ROUTES,
} as const;

export type RouteName = keyof typeof ROUTES;
/** Calls that go on, for whoever accepts server-sent events. */
export const GOES_ON: readonly RouteName[] = ["diskLive", "listEvents"];
type Part<R, K extends string> = R extends { readonly [P in K]: infer T extends z.ZodType }
  ? T
  : z.ZodObject<Record<never, z.ZodType>>;
type Nothing = Record<string, never>;
type Omittable<T> = {
  readonly [K in keyof T as Nothing extends T[K] ? K : never]?: T[K];
} & {
  readonly [K in keyof T as Nothing extends T[K] ? never : K]: T[K];
};
/** What a caller gives: parameters, query and body in one object each; one that may be empty may be left out. */
export type RouteInput<N extends RouteName> = Omittable<{
  params: z.input<Part<(typeof ROUTES)[N], "params">>;
  query: z.input<Part<(typeof ROUTES)[N], "query">>;
  body: z.input<Part<(typeof ROUTES)[N], "body">>;
}>;
/** The same after it was checked, with defaults filled in. */
export type CheckedInput<N extends RouteName> = {
  readonly params: z.output<Part<(typeof ROUTES)[N], "params">>;
  readonly query: z.output<Part<(typeof ROUTES)[N], "query">>;
  readonly body: z.output<Part<(typeof ROUTES)[N], "body">>;
};
export type RouteResult<N extends RouteName> = z.infer<(typeof ROUTES)[N]["result"]>;
/** Whoever answers the calls. */
export type Service = { readonly [N in RouteName]: (input: CheckedInput<N>) => Promise<RouteResult<N>> };
