/** Draws requests from an OpenAPI document: such as its schemas allow, and such as they don't. */
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";

/** As much of JSON Schema as the document uses. */
export interface Schema {
  readonly $ref?: string;
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly pattern?: string;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
}
interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly required: boolean;
  readonly schema: Schema;
}
export interface Operation {
  readonly operationId: string;
  readonly parameters: readonly Parameter[];
  readonly requestBody?: { readonly content: { readonly "application/json": { readonly schema: Schema } } };
  readonly responses: Readonly<Record<string, unknown>>;
}
export interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

export interface DrawnRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** Texts that fit the patterns of the document. */
const FITTING: Readonly<Record<string, readonly string[]>> = {
  name: ["a", "vm1-root", "X.9_z", "0", "n".repeat(63), "constructor", "toString"],
  target: ["vda", "vdxyz"],
  reference: ["/images/a.qcow2", "nbd://host/x", "https://h/a?b#c", "ü \"'\\", "../..", "x".repeat(4096), "\u{1f4be}"],
};
const WRONG: readonly unknown[] = [
  ...[
    null,
    true,
    false,
    0,
    -1,
    1.5,
    1e308,
    2 ** 53,
    -0,
    "",
    " ",
    "\0",
    "a\0b",
    "..",
    "../../etc/passwd",
    "\ud800",
    "NaN",
  ],
  ...[[], [[]], {}, { length: 1 }, "x".repeat(5000), "__proto__", Array.from({ length: 2000 }, () => 1), "%00", "1e3"],
];
const ODD_NAMES = ["__proto__", "constructor", "toString", "", "then", "a.b", "x\u0000"];

export class RequestDraws {
  readonly #document: Document;
  readonly #random: Random;

  constructor(document: Document, random: Random) {
    this.#document = document;
    this.#random = random;
  }

  /** A request that the document allows. */
  fitting(path: string, method: string, operation: Operation): DrawnRequest {
    const drawn = (place: Parameter["in"]) =>
      operation.parameters
        .filter((parameter) => parameter.in === place && (parameter.required || chance(this.#random, 0.5)))
        .map(({ name, schema }): [string, string] => [name, String(this.value(schema, name))]);
    const query = new URLSearchParams(drawn("query")).toString();
    const params = new Map(drawn("path"));
    const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params.get(name) ?? ""));
    const schema = operation.requestBody?.content["application/json"].schema;
    return {
      method: method.toUpperCase(),
      path: query === "" ? filled : `${filled}?${query}`,
      headers: schema === undefined ? {} : { "Content-Type": "application/json" },
      ...(schema !== undefined && { body: JSON.stringify(this.value(schema, "")) }),
    };
  }

  /** The same with something that may be wrong. */
  spoiled(request: DrawnRequest): DrawnRequest {
    const { path, body } = request;
    const random = this.#random;
    switch (below(random, body === undefined ? 4 : 8)) {
      case 0:
        return { ...request, path: this.#cutAbout(path) };
      case 1: {
        const field = `${encodeURIComponent(oneOf(random, ["limit", "after", "disk", ...ODD_NAMES]))}`;
        return { ...request, path: `${path}${path.includes("?") ? "&" : "?"}${field}=${this.#wrongText()}` };
      }
      case 2:
        return {
          ...request,
          method: oneOf(random, ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]),
        };
      case 3: {
        const name = oneOf(random, ["Accept", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Content-Length"]);
        return {
          ...request,
          headers: { ...request.headers, [name]: oneOf(random, ["", "x", "text/html", "-1", "9".repeat(30)]) },
        };
      }
      case 4:
        return { ...request, body: this.#cutAbout(body ?? "") };
      case 5:
        return { ...request, body: JSON.stringify(oneOf(random, WRONG)) };
      case 6:
        return { ...request, body: `${"[".repeat(between(random, 1, 30_000))}` };
      default:
        return { ...request, body: JSON.stringify(this.#spoiledValue(parsed(body))) };
    }
  }

  /** A value that a schema allows. @param name of the field, which says what texts are good for */
  value(schema: Schema, name: string): unknown {
    const random = this.#random;
    if (schema.$ref !== undefined) return this.value(this.#named(schema.$ref), name);
    if (schema.const !== undefined) return schema.const;
    if (schema.enum !== undefined) return oneOf(random, schema.enum);
    const shapes = schema.anyOf ?? schema.oneOf;
    if (shapes !== undefined) return this.value(oneOf(random, shapes), name);
    switch (schema.type) {
      case "object": {
        const { properties = {}, required = [] } = schema;
        const chosen = Object.keys(properties).filter((key) => required.includes(key) || chance(random, 0.5));
        return Object.fromEntries(chosen.map((key) => [key, this.value(properties[key] ?? {}, key)]));
      }
      case "array": {
        const { items = {} } = schema;
        return Array.from({ length: below(random, 3) }, () => this.value(items, name));
      }
      case "integer":
      case "number": {
        const [least, most] = [schema.minimum ?? 0, schema.maximum ?? 1000];
        return oneOf(random, [least, most, between(random, least, Math.min(most, least + 1000))]);
      }
      case "boolean":
        return chance(random, 0.5);
      case "null":
        return null;
      case "string":
        return this.#text(schema);
      default:
        throw new Error(`The document has a schema that nobody can draw from: ${JSON.stringify(schema)}`);
    }
  }

  #text({ pattern, maxLength = 4096 }: Schema): string {
    const all = Object.values(FITTING).flat();
    const fits = all.filter(
      (text) => text.length <= maxLength && (pattern === undefined || new RegExp(pattern).test(text)),
    );
    return oneOf(this.#random, fits);
  }

  #named(reference: string): Schema {
    return this.#document.components.schemas[reference.split("/").at(-1) ?? ""] ?? {};
  }

  #spoiledValue(value: unknown): unknown {
    const random = this.#random;
    if (typeof value !== "object" || value === null || chance(random, 0.2)) return oneOf(random, WRONG);
    const entries = Object.entries(value);
    const odd: [string, unknown] = [oneOf(random, ODD_NAMES), oneOf(random, WRONG)];
    if (entries.length === 0 || chance(random, 0.3)) return Object.fromEntries([...entries, odd]);
    const [key, inner] = oneOf(random, entries);
    return { ...value, [key]: this.#spoiledValue(inner) };
  }

  #cutAbout(text: string): string {
    const at = between(this.#random, 1, text.length);
    const piece = oneOf(this.#random, [
      "",
      "/",
      "..",
      "%2e%2e/",
      "%",
      "%00",
      "\\",
      "?",
      "&",
      '"',
      "{",
      "\u{1f4be}",
      "a".repeat(3000),
    ]);
    return text.slice(0, at) + piece + text.slice(at + below(this.#random, 4));
  }

  #wrongText(): string {
    const wrong = oneOf(this.#random, WRONG);
    return encodeURIComponent(String(wrong).toWellFormed());
  }
}

/** Of a body that may have been spoiled before. */
function parsed(body: string | undefined): unknown {
  try {
    return JSON.parse(body ?? "");
  } catch {
    return {};
  }
}
