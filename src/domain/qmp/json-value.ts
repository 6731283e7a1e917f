/**
 * Reads what a peer has answered, member by member: a member of another type than it must have is an error of the peer,
 * whatever else is in the object is nobody's business.
 */
import { StreamdiskError } from "../../errors/index.ts";

export type JsonObject = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An answer, or a part of one, and what it is called in messages. */
export class JsonValue {
  readonly value: unknown;
  readonly #where: string;

  constructor(value: unknown, where: string) {
    this.value = value;
    this.#where = where;
  }

  /** A member of an object; what is absent is a value too, `undefined`. */
  get(name: string): JsonValue {
    if (!isObject(this.value)) throw this.#mustBe("an object");
    return new JsonValue(Object.hasOwn(this.value, name) ? this.value[name] : undefined, `${this.#where}.${name}`);
  }

  get absent(): boolean {
    return this.value === undefined || this.value === null;
  }

  string(): string {
    if (typeof this.value !== "string") throw this.#mustBe("a string");
    return this.value;
  }

  boolean(): boolean {
    if (typeof this.value !== "boolean") throw this.#mustBe("true or false");
    return this.value;
  }

  /** A whole number that is not negative. */
  count(): number {
    if (typeof this.value !== "number" || !Number.isSafeInteger(this.value) || this.value < 0) {
      throw this.#mustBe("a whole number");
    }
    return this.value;
  }

  /** A number that is not negative; a very large one is not exact. */
  amount(): number {
    if (typeof this.value !== "number" || !(this.value >= 0)) throw this.#mustBe("a number");
    return this.value;
  }

  items(): JsonValue[] {
    if (!Array.isArray(this.value)) throw this.#mustBe("an array");
    return this.value.map((item, index) => new JsonValue(item, `${this.#where}[${index}]`));
  }

  /** What is read of a value that may be absent. */
  optional<T>(read: (value: JsonValue) => T): T | undefined {
    return this.absent ? undefined : read(this);
  }

  #mustBe(what: string): StreamdiskError {
    return new StreamdiskError("protocol", `'${this.#where}' must be ${what}: '${brief(this.value)}'`);
  }
}

function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? "undefined";
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
