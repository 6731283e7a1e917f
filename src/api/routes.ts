/**
 * The one table of the API's calls. The daemon answers them, the client makes them, and the OpenAPI document lists them, all from here;
 * the types of the three follow. Streams of events, metrics and health are no calls, and lie beside it.
 */
import type { z } from "zod";
import { DAEMON_ROUTES } from "./daemon-routes.ts";
import { DEPLOYMENT_ROUTES } from "./deployment-routes.ts";
import { DISK_ROUTES } from "./disk-routes.ts";
import { DOMAIN_ROUTES } from "./domain-routes.ts";
import { EXPORT_ROUTES } from "./export-routes.ts";
import { STREAM_ROUTES } from "./stream-routes.ts";

export const ROUTES = {
  ...DAEMON_ROUTES,
  ...DISK_ROUTES,
  ...STREAM_ROUTES,
  ...EXPORT_ROUTES,
  ...DOMAIN_ROUTES,
  ...DEPLOYMENT_ROUTES,
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
