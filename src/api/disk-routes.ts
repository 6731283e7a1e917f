/** The calls about the disks of the daemon. */
import { z } from "zod";
import { bytes, clients, flag, inQuery, limit, nothing, ofDisk } from "./inputs.ts";
import { diskName, streamName } from "./names.ts";
import { route } from "./route.ts";
import { cells, disk, live, loadSample, mapRun, newDisk, newSource, sourcePolicy } from "./schemas.ts";

export const DISK_ROUTES = {
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
    summary: "Where each range of a disk comes from; of a domain's disk which are local",
    params: z.object({ disk: streamName }).strict(),
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
  setPolicy: route({
    method: "PUT",
    path: "/v1/disks/{disk}/policy",
    summary:
      "What becomes of requests that a lost source cannot answer, from now on: of a disk, or of what lies below a domain's",
    params: z.object({ disk: streamName }).strict(),
    body: sourcePolicy,
    result: z.object({ onSourceError: sourcePolicy, warnings: z.array(z.string()) }),
    status: 200,
    errors: ["not-found", "refused", "unsupported", "shutdown"],
  }),
  replaceSource: route({
    method: "POST",
    path: "/v1/disks/{disk}/replace-source",
    summary: "Name another place for what is missing, when the source has moved",
    params: ofDisk,
    body: newSource,
    result: disk,
    status: 200,
    errors: ["not-found", "refused", "changed", "source-lost"],
  }),
} as const;
