/** The calls about the daemon as a whole: what it is, its sources, limits and events. */
import { z } from "zod";
import { bytes, inQuery, limit } from "./inputs.ts";
import { streamName } from "./names.ts";
import { route } from "./route.ts";
import { daemonInfo, event, limit as limitSchema, source } from "./schemas.ts";

export const DAEMON_ROUTES = {
  daemon: route({
    method: "GET",
    path: "/v1/daemon",
    summary: "What this daemon is",
    result: daemonInfo,
    status: 200,
    errors: [],
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
} as const;
