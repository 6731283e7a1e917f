/**
 * Creation options, `-o name=value` in qemu-img's spelling: each format names the ones it has, everything else is
 * refused by name.
 */
import type { BackingReference } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";

/** What a new image became, where that may differ from what was asked for. */
export interface CreatedFormat {
  /** Virtual size in bytes: what was asked for, rounded up to sectors of 512. */
  readonly size: number;
  /** What a reader of the image will be told; QED, for one, keeps only whether the format is raw. */
  readonly backing: BackingReference | undefined;
  /** What its user should know, each a sentence. */
  readonly warnings: readonly string[];
}

/** The place is the power of 1024; no letter is found at 0. */
const UNITS = ["", "K", "M", "G", "T"];

/** Reads the options of one format. */
export class CreationOptions {
  readonly #values: Readonly<Record<string, string>>;
  readonly #format: string;

  /**
   * @param known all names that the format has
   * @throws {StreamdiskError} `invalid-argument` for any other name
   */
  constructor(format: string, values: Readonly<Record<string, string>> | undefined, known: readonly string[]) {
    this.#values = values ?? {};
    this.#format = format;
    for (const name of Object.keys(this.#values)) {
      if (known.includes(name)) continue;
      throw new StreamdiskError(
        "invalid-argument",
        `Unknown option '${name}' for ${format}; it has ${known.join(", ")}`,
      );
    }
  }

  /**
   * A number of bytes, or a plain number: digits and at most one of K, M, G, T (powers of 1024).
   *
   * @throws {StreamdiskError} `invalid-argument`
   */
  number(name: string, byDefault: number): number {
    const text = this.#values[name];
    if (text === undefined) return byDefault;
    const match = /^(\d{1,15})(?:([KMGT])(?:iB)?)?$/i.exec(text);
    const power = UNITS.indexOf((match?.[2] ?? "").toUpperCase());
    const value = match === null ? Number.NaN : Number(match[1]) * 1024 ** power;
    if (Number.isSafeInteger(value)) return value;
    throw this.#bad(name, text, "write a number, or one with K, M, G or T");
  }

  /**
   * One of a few words; the first is the default.
   *
   * @throws {StreamdiskError} `invalid-argument`
   */
  word<const T extends string>(name: string, words: readonly [T, ...T[]]): T {
    const text = this.#values[name];
    if (text === undefined) return words[0];
    const word = words.find((w) => w === text);
    if (word === undefined) throw this.#bad(name, text, `it can be ${words.join(", ")}`);
    return word;
  }

  #bad(name: string, text: string, why: string): StreamdiskError {
    return new StreamdiskError("invalid-argument", `Option '${name}' for ${this.#format} cannot be '${text}': ${why}`);
  }
}

/**
 * The size of a new image: rounded up to whole sectors, as QEMU has it.
 *
 * @throws {StreamdiskError} `invalid-argument`
 */
export function creationSize(size: number, node: string): number {
  const rounded = Math.ceil(size / 512) * 512;
  if (Number.isSafeInteger(size) && size >= 0 && Number.isSafeInteger(rounded)) return rounded;
  throw new StreamdiskError("invalid-argument", `'${node}' cannot have a size of ${size} bytes`, { node });
}
