/**
 * What comes in with a request, bounded and checked: the path's parameters, the query and the body, each by its route's schema. A
 * body that is announced as too large is refused before a byte of it is read, any other as soon as it has become so or is too slow.
 */
import { failedFields, type RouteParts } from "../api/index.ts";
import type { Clock } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { HttpRefusal } from "./http-problem.ts";

/** Bytes of a request's body. */
export const LARGEST_BODY = 64 * 1024;

/** Checked by its schemas. */
export interface CheckedParts {
  readonly params: unknown;
  readonly query: unknown;
  readonly body: unknown;
}

/**
 * Checks a request against its route.
 *
 * @param text of the body, "" when there is none
 * @throws {StreamdiskError} `invalid-argument` that names the field
 */
export function checkInput(
  route: RouteParts,
  params: Readonly<Record<string, string>>,
  query: URLSearchParams,
  text: string,
): CheckedParts {
  return {
    params: checked(route.params, params, "path"),
    query: checked(route.query, fieldsOf(query), "query"),
    body: route.body === undefined ? noBody(text) : checked(route.body, parsed(text), "body"),
  };
}

/** @throws {StreamdiskError} `invalid-argument` for a name that is not the route's, or is there twice */
export function checkQuery(route: RouteParts, query: URLSearchParams): unknown {
  return checked(route.query, fieldsOf(query), "query");
}

function checked(schema: RouteParts["body"], value: unknown, place: "path" | "query" | "body"): unknown {
  if (schema === undefined) {
    for (const name of Object.keys(value as object)) throw invalid(`The ${place} takes no '${name}'`);
    return {};
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw invalid(failedFields(place, result.error));
}

function fieldsOf(query: URLSearchParams): Record<string, string> {
  const fields = new Map<string, string>();
  for (const [name, value] of query) {
    if (fields.has(name)) throw invalid(`'${name}' is twice in the query`);
    fields.set(name, value);
  }
  return Object.fromEntries(fields);
}

function noBody(text: string): object {
  if (text === "") return {};
  throw invalid("This call takes no body");
}

function parsed(text: string): unknown {
  if (text === "") return {};
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalid(`The body is not JSON: ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * Reads the body of a request.
 *
 * @param limitMs how long all of it may take
 * @throws {HttpRefusal} 413, 415 or 408; {StreamdiskError} `invalid-argument` for what is not UTF-8
 */
export async function readBody(request: Request, clock: Clock, limitMs: number): Promise<string> {
  if (Number(request.headers.get("content-length") ?? 0) > LARGEST_BODY) throw tooLarge();
  if (request.body === null) return "";
  const enough = new AbortController();
  const reader = request.body.getReader();
  const tooSlow = clock.sleep(limitMs, enough.signal).then(() => "too-slow" as const);
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for (;;) {
      const next = await Promise.race([reader.read(), tooSlow]);
      if (next === "too-slow") throw slow(limitMs);
      if (next.done) break;
      length += next.value.length;
      if (length > LARGEST_BODY) throw tooLarge();
      chunks.push(next.value);
    }
  } catch (error) {
    if (error instanceof StreamdiskError) throw error;
    throw invalid("The body ended before it was complete");
  } finally {
    enough.abort();
  }
  if (length > 0) mustBeJson(request.headers.get("content-type"));
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw invalid("The body is not UTF-8");
  }
}

function mustBeJson(type: string | null): void {
  if (/^application\/json\s*(?:;|$)/i.test(type ?? "")) return;
  const message = `The body is to be 'application/json', not ${type === null ? "of no type" : `'${type}'`}`;
  throw new HttpRefusal(415, "invalid-argument", message);
}

function tooLarge(): HttpRefusal {
  return new HttpRefusal(413, "invalid-argument", `The body is longer than ${LARGEST_BODY} bytes`);
}

function slow(limitMs: number): HttpRefusal {
  return new HttpRefusal(408, "invalid-argument", `The body was not complete after ${limitMs / 1000} seconds`);
}

function invalid(message: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", message);
}
