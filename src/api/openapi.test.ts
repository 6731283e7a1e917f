import assert from "node:assert/strict";
import { test } from "node:test";
import { type Json, openApiDocument } from "./openapi.ts";
import type { RouteParts } from "./route.ts";
import { ROUTES } from "./routes.ts";

const document = openApiDocument("1.2.3");

/** What is at a path of keys. */
function at(...keys: readonly string[]): Json {
  return keys.reduce<Json>((value, key) => {
    assert.ok(typeof value === "object" && value !== null && !Array.isArray(value), `nothing at ${keys.join(" / ")}`);
    return (value as { readonly [key: string]: Json })[key] ?? null;
  }, document);
}

function* objectsIn(value: Json): Generator<{ readonly [key: string]: Json }> {
  if (typeof value !== "object" || value === null) return;
  if (!Array.isArray(value)) yield value as { readonly [key: string]: Json };
  for (const part of Object.values(value)) yield* objectsIn(part);
}

test("every route is an operation of its own name, with its parameters", () => {
  for (const [name, route] of Object.entries<RouteParts>(ROUTES)) {
    const operation = at("paths", route.path, route.method.toLowerCase()) as {
      operationId: string;
      parameters: Json[];
    };
    assert.equal(operation.operationId, name);
    const inPath = [...route.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
    const declared = operation.parameters as { in: string; name: string; required: boolean }[];
    assert.deepEqual(
      declared.filter(({ in: place }) => place === "path").map(({ name: parameter }) => parameter),
      inPath,
    );
  }
});

test("every reference leads somewhere, and it is plain JSON", () => {
  assert.deepEqual(JSON.parse(JSON.stringify(document)), document);
  let references = 0;
  for (const { $ref } of objectsIn(document)) {
    if (typeof $ref !== "string") continue;
    assert.notEqual(at(...$ref.split("/").slice(1)), null, $ref);
    references += 1;
  }
  assert.ok(references > 50);
});

test("numbers and truth values of a query are what they mean, not text", () => {
  const parameters = at("paths", "/v1/disks", "get", "parameters") as { name: string; schema: { type: string } }[];
  const types = Object.fromEntries(parameters.map(({ name, schema }) => [name, schema.type]));
  const texts = { after: "string", source: "string", host: "string" };
  assert.deepEqual(types, { ...texts, limit: "integer", hydrated: "boolean", wide: "boolean" });
});

test("what comes in is strict, what goes out may grow", () => {
  assert.equal(at("components", "schemas", "NewDisk", "additionalProperties"), false);
  assert.equal(at("components", "schemas", "Disk", "additionalProperties"), null);
  assert.deepEqual(at("components", "schemas", "NewDisk", "required"), ["name"]);
});

test("the status of each code of a route is there, and says which it is", () => {
  const conflict = at("paths", "/v1/disks", "post", "responses", "409", "description");
  assert.equal(conflict, "`exists`, `in-use`");
});
