/** The calls about streams, in the RFC's verbs; a disk is one of the daemon's, or a domain's. */
import { z } from "zod";
import { bytes, limit, noInput } from "./inputs.ts";
import { reference, streamName } from "./names.ts";
import { route } from "./route.ts";
import { job, jobState } from "./schemas.ts";

/** Of a domain's disk too: `DOMAIN:DEVICE`. */
const ofStream = z.object({ disk: streamName }).strict();

export const STREAM_ROUTES = {
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
} as const;
