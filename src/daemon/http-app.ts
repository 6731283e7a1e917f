/**
 * The API as an application that knows no sockets: a request and how it came in, a response out.
 *
 * On its way a request passes, in this order: the count and the log, the limit of its client's rate, who may call, then its route:
 * parameters and query, the body (bounded in length and time), the schemas, and with an idempotency key the answers that were given
 * before. Whatever fails on the way becomes `problem+json`; of a failure that nobody foresaw the caller learns only a number by which the
 * log tells more.
 */
import { randomUUID } from "node:crypto";
import { type Context, Hono } from "hono";
import {
  type CheckedInput,
  GOES_ON,
  type Live,
  openApiDocument,
  ROUTES,
  type RouteName,
  type RouteParts,
  type Service,
} from "../api/index.ts";
import { type Clock, systemClock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { EventFeed } from "../jobs/index.ts";
import { type AccessRules, accessCheck, type Caller, callerKey } from "./access.ts";
import { EventStreams, eventLine, type Line, plainLine } from "./event-stream.ts";
import { checkInput, checkQuery, readBody } from "./http-input.ts";
import { type Answer, answerOf, failureAnswer, HttpRefusal, responseOf } from "./http-problem.ts";
import { IdempotentAnswers } from "./idempotency.ts";
import type { Log } from "./log.ts";
import { Metrics } from "./metrics.ts";
import type { PageFiles } from "./page-files.ts";
import { type Rate, RateLimit } from "./rate-limit.ts";

export interface HttpAppOptions {
  readonly events: EventFeed;
  /** What goes on in a disk that is open. */
  readonly watch: (disk: string, signal: AbortSignal) => AsyncIterable<Live>;
  readonly access: AccessRules;
  /** The page to look at; who only looks at it needs no token. @default none */
  readonly page?: PageFiles;
  readonly log: Log;
  /** Ends those who follow the events, so that the server can close. */
  readonly closing?: AbortSignal;
  readonly limits?: Partial<HttpLimits>;
  readonly clock?: Clock;
}

export interface HttpLimits {
  /** How long a body may take. @default 10,000 */
  readonly bodyMs: number;
  /** Of one address over TCP, and of all on the Unix socket together. @default 500 a second, 1,000 at once */
  readonly rate: Rate;
  /** Clients that follow the events. @default 64 */
  readonly followers: number;
  /** @default 15,000 */
  readonly heartbeatMs: number;
}

/** What the server says of a request. One that says nothing is a stranger's. */
export interface HttpBindings {
  readonly caller?: Caller;
  /** Ends the connection at once. */
  readonly cutOff?: () => void;
}

interface AppEnv {
  Bindings: HttpBindings;
  Variables: { requestId: string; route: string };
}
export type HttpApp = Hono<AppEnv>;

const DEFAULT_LIMITS: HttpLimits = {
  bodyMs: 10_000,
  rate: { perSecond: 500, burst: 1000 },
  followers: 64,
  heartbeatMs: 15_000,
};
const STRANGER: Caller = { kind: "tcp", address: "unknown", secure: false, isOwnName: () => false };
/** For whoever watches over the process: they say nothing of anybody's disks. */
const NEEDS_NO_TOKEN: readonly string[] = ["/healthz", "/readyz"];
/** A browser that gets here keeps nothing and guesses nothing. */
const ALWAYS_SENT = { "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff" };

/** Makes the application. */
export function httpApp(service: Service, options: HttpAppOptions): HttpApp {
  const { events, watch, access, page = new Map() as PageFiles, log, closing, clock = systemClock } = options;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const metrics = new Metrics(service);
  const rate = new RateLimit(limits.rate, clock);
  const mayCall = accessCheck(access);
  const streams = new EventStreams(clock, limits, closing);
  const answers = new IdempotentAnswers(clock);
  const app: HttpApp = new Hono<AppEnv>();

  app.use(async (c, next) => {
    const began = clock.now();
    c.set("requestId", randomUUID());
    c.set("route", "none");
    await next();
    for (const [name, value] of Object.entries(ALWAYS_SENT)) {
      if (!c.res.headers.has(name)) c.res.headers.set(name, value);
    }
    const { method } = c.req;
    metrics.countRequest(c.get("route"), method, c.res.status);
    const facts = { method, path: c.req.path, status: c.res.status, ms: Math.round(clock.now() - began) };
    log.debug({ request: c.get("requestId"), ...facts }, "Request");
  });
  app.use(async (c, next) => {
    const caller = c.env?.caller ?? STRANGER;
    const waitMs = rate.take(callerKey(caller));
    if (waitMs > 0) throw tooMany(waitMs);
    mayCall(caller, c.req.raw.headers, NEEDS_NO_TOKEN.includes(c.req.path) || page.has(c.req.path));
    await next();
  });
  app.onError((error, c) => {
    const requestId = c.get("requestId");
    if (!(error instanceof StreamdiskError)) {
      log.error({ err: error, request: requestId, method: c.req.method, path: c.req.path }, "Internal error");
    }
    return responseOf(failureAnswer(error, requestId));
  });
  app.notFound(() => {
    throw new StreamdiskError("not-found", "There is nothing at this path: /v1/openapi.json says what there is");
  });

  const methods = new Map<string, string[]>();
  const serve = (method: string, path: string, handle: (c: Context<AppEnv>) => Response | Promise<Response>): void => {
    methods.set(path, [...(methods.get(path) ?? []), method]);
    app.on(method, honoPath(path), (c) => {
      c.set("route", path);
      return handle(c);
    });
  };

  for (const [name, route] of Object.entries<RouteParts>(ROUTES)) {
    serve(route.method, route.path, async (c) => {
      if (GOES_ON.includes(name as RouteName) && wantsEventStream(c.req.raw)) return follow(c, name as RouteName);
      const text = await readBody(c.req.raw, clock, limits.bodyMs);
      const { pathname, search, searchParams } = new URL(c.req.url);
      const input = checkInput(route, c.req.param(), searchParams, text);
      const act = async () => answerOf(route.status, await call(service, name as RouteName, input));
      const key = route.method === "POST" ? c.req.header("Idempotency-Key") : undefined;
      if (key === undefined) return responseOf(await act());
      const foreseen = (error: unknown): Answer => {
        if (error instanceof StreamdiskError) return failureAnswer(error, c.get("requestId"));
        throw error;
      };
      return responseOf(await answers.answer(key, `${pathname}${search}\n${text}`, () => act().catch(foreseen)));
    });
  }

  async function follow(c: Context<AppEnv>, name: RouteName): Promise<Response> {
    const cutOff = (): void => c.env?.cutOff?.();
    const body = await streams.open(() => (name === "diskLive" ? liveOf(c) : eventsOf(c)), cutOff);
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }

  function eventsOf(c: Context<AppEnv>): Promise<Line> {
    const query = new URL(c.req.url).searchParams;
    const { after, disk } = checkQuery(ROUTES.listEvents, query) as CheckedInput<"listEvents">["query"];
    const resumeAfter = lastEventId(c.req.header("Last-Event-ID")) ?? after;
    return eventLine(events, {
      ...(resumeAfter !== undefined && { after: resumeAfter }),
      ...(disk !== undefined && { disk }),
    });
  }

  async function liveOf(c: Context<AppEnv>): Promise<Line> {
    const query = new URL(c.req.url).searchParams;
    const input = checkInput(ROUTES.diskLive, c.req.param(), query, "") as CheckedInput<"diskLive">;
    // Whatever is wrong with the disk is said before the line begins.
    await service.diskLive(input);
    return plainLine((signal) => watch(input.params.disk, signal));
  }

  let document: string | undefined;
  serve("GET", "/v1/openapi.json", async () => {
    document ??= JSON.stringify(openApiDocument((await service.daemon(NO_INPUT)).version));
    return new Response(document, { headers: { "Content-Type": "application/json" } });
  });
  serve("GET", "/healthz", () => new Response("ok\n"));
  serve("GET", "/readyz", async () => {
    await service.daemon(NO_INPUT);
    return new Response("ready\n");
  });
  serve("GET", "/metrics", async () => {
    return new Response(await metrics.text(), { headers: { "Content-Type": metrics.contentType } });
  });

  for (const [path, { body, headers }] of page) serve("GET", path, () => new Response(body, { headers }));

  for (const [path, allowed] of methods) {
    app.all(honoPath(path), (c) => {
      c.set("route", path);
      const message = `'${c.req.method}' is not for this path, which takes ${allowed.join(", ")}`;
      throw new HttpRefusal(405, "invalid-argument", message, { Allow: allowed.join(", ") });
    });
  }
  return app;
}

const NO_INPUT = { params: {}, query: {}, body: {} };

/** The input was checked by the schemas of that very route; what the table ties together, the compiler cannot follow here. */
function call(service: Service, name: RouteName, input: unknown): Promise<unknown> {
  return (service as unknown as Record<RouteName, (input: unknown) => Promise<unknown>>)[name](input);
}

function honoPath(path: string): string {
  return path.replaceAll(/\{(\w+)\}/g, ":$1");
}

function wantsEventStream(request: Request): boolean {
  const accepted = (request.headers.get("accept") ?? "").split(",").map((type) => type.trim().toLowerCase());
  return request.method === "GET" && accepted.some((type) => /^text\/event-stream(?:;|$)/.test(type));
}

/** @throws {StreamdiskError} `invalid-argument` for one that was never given */
function lastEventId(text: string | undefined): number | undefined {
  if (text === undefined || text === "") return undefined;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new StreamdiskError("invalid-argument", `'${text.slice(0, 40)}' in 'Last-Event-ID' is no id of an event`);
}

function tooMany(waitMs: number): HttpRefusal {
  const seconds = String(Math.ceil(waitMs / 1000));
  const message = `Too many requests: come back in ${seconds} s`;
  return new HttpRefusal(429, "in-use", message, { "Retry-After": seconds });
}
