/**
 * The OpenAPI 3.1 document, made from the table of routes: nothing in it is written by hand, so nothing in it can be wrong for
 * long. Its schemas are JSON Schema 2020-12, as OpenAPI 3.1 takes them.
 */
import { z } from "zod";
import { ERROR_TABLE, type ErrorCode } from "../errors/index.ts";
import type { RouteParts } from "./route.ts";
import { GOES_ON, ROUTES, type RouteName } from "./routes.ts";
import { NAMED_SCHEMAS } from "./schemas.ts";

/** Any part of the document. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
type JsonObject = { readonly [key: string]: Json };

/** What every call may be answered with, beside what its route says. */
const ALWAYS: readonly ErrorCode[] = ["invalid-argument", "permission", "refused", "in-use", "shutdown"];
/** Statuses that are the protocol's rather than of the table of errors. */
const OF_THE_PROTOCOL: Readonly<Record<string, string>> = {
  401: "A token is needed, or this one is wrong",
  408: "The body came too slowly",
  413: "The body is too large",
  415: "The body is not JSON",
  429: "Too many requests at once: `Retry-After` says when to come back",
};
const PROBLEM: JsonObject = {
  "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } },
};
const REFERENCE = "#/components/schemas/";

/**
 * Makes the document.
 *
 * @param version of the program that answers
 */
export function openApiDocument(version: string): JsonObject {
  const taken = namedSchemas("input");
  const paths: Record<string, Record<string, Json>> = {};
  for (const [name, route] of Object.entries<RouteParts>(ROUTES)) {
    paths[route.path] ??= {};
    Object.assign(paths[route.path] as object, { [route.method.toLowerCase()]: operation(name, route) });
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "streamdisk",
      version,
      description:
        "Disks that are served before they have arrived. All amounts are bytes, all times milliseconds since 1970.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths,
    components: {
      schemas: { ...namedSchemas("output"), NewDisk: taken["NewDisk"] ?? {}, NewExport: taken["NewExport"] ?? {} },
      securitySchemes: { token: { type: "http", scheme: "bearer", description: "Over TCP; a Unix socket needs none" } },
    },
    security: [{ token: [] }, {}],
  };
}

function operation(name: string, route: RouteParts): Json {
  return {
    operationId: name,
    summary: route.summary,
    parameters: [
      ...parameters("path", route.params),
      ...parameters("query", route.query),
      ...(route.method === "POST" ? [IDEMPOTENCY_KEY] : []),
    ],
    ...(route.body !== undefined && {
      requestBody: {
        required: !route.body.safeParse({}).success,
        content: { "application/json": { schema: schemaOf(route.body, "input") } },
      },
    }),
    responses: { [route.status]: success(name, route), ...failures(route) },
  };
}

const IDEMPOTENCY_KEY: JsonObject = {
  name: "Idempotency-Key",
  in: "header",
  required: false,
  description: "The same key with the same request gives the same answer for an hour, and acts once",
  schema: { type: "string", minLength: 1, maxLength: 200 },
};

function parameters(place: "path" | "query", schema: z.ZodObject | undefined): Json[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = schemaOf(schema, "input") as {
    properties?: Record<string, JsonObject>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: place,
    required: place === "path" || required.includes(name),
    schema: property,
  }));
}

function success(name: string, route: RouteParts): Json {
  if (route.status === 204) return { description: "Done" };
  return {
    description: route.status === 201 ? "Made" : "The answer",
    content: {
      "application/json": { schema: schemaOf(route.result, "output") },
      ...(GOES_ON.includes(name as RouteName) && { "text/event-stream": { schema: { type: "string" } } }),
    },
  };
}

function failures(route: RouteParts): JsonObject {
  const byStatus = new Map<string, string[]>();
  for (const code of new Set([...route.errors, ...ALWAYS])) {
    const status = String(ERROR_TABLE[code].http);
    byStatus.set(status, [...(byStatus.get(status) ?? []), `\`${code}\``]);
  }
  const texts = {
    ...OF_THE_PROTOCOL,
    ...Object.fromEntries(Array.from(byStatus, ([status, codes]) => [status, codes.join(", ")])),
    default: "Any other failure",
  };
  return Object.fromEntries(
    Object.entries(texts).map(([status, description]) => [status, { description, content: PROBLEM }]),
  );
}

/** The schema of one part of a route; what has a name is referred to. */
function schemaOf(schema: z.ZodType, io: "input" | "output"): JsonObject {
  const named = Object.keys(NAMED_SCHEMAS).find((name) => NAMED_SCHEMAS[name] === schema);
  if (named !== undefined) return { $ref: REFERENCE + named };
  return convert({ ...NAMED_SCHEMAS, [THIS]: schema }, io)[THIS] ?? {};
}
const THIS = "This";

function namedSchemas(io: "input" | "output"): Record<string, JsonObject> {
  return convert(NAMED_SCHEMAS, io);
}

function convert(schemas: Readonly<Record<string, z.ZodType>>, io: "input" | "output"): Record<string, JsonObject> {
  const registry = z.registry<{ id: string }>();
  for (const [id, schema] of Object.entries(schemas)) registry.add(schema, { id });
  const made = z.toJSONSchema(registry, { io, uri: (id) => REFERENCE + id, override: forgiveMore(io) });
  return Object.fromEntries(
    Object.entries(made.schemas).map(([id, { $schema: _, $id: __, ...schema }]) => [id, schema as JsonObject]),
  );
}

/** An answer may have more fields in a later version. */
function forgiveMore(io: "input" | "output") {
  return ({ jsonSchema }: { jsonSchema: { additionalProperties?: unknown } }): void => {
    if (io === "output" && jsonSchema.additionalProperties === false)
      Reflect.deleteProperty(jsonSchema, "additionalProperties");
  };
}
