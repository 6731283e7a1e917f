import type { z } from "zod";
import type { ErrorCode } from "../errors/index.ts";

/** What a route says. */
export interface RouteParts {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** With `{name}` for parameters. */
  readonly path: string;
  readonly summary: string;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodType;
  readonly result: z.ZodType;
  readonly status: 200 | 201 | 204;
  readonly errors: readonly ErrorCode[];
}

/** Keeps what is said of a route as narrow as it is. */
export function route<const R extends RouteParts>(parts: R): R {
  return parts;
}
