/**
 * Sizes, rates and durations as people write them and as they are printed. Sizes follow qemu-img: a bare number is bytes,
 * every suffix is a power of 1024. What other tools mean by bits or by powers of 1000 is refused rather than guessed.
 */
import { StreamdiskError } from "../errors/index.ts";

const SUFFIXES = "KMGTPE";
const SIZE = /^(\d+)?(?:\.(\d*))?\s*([A-Za-z]*)$/;
const DURATION = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/;
const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/**
 * Reads a size: `512`, `64K`, `1.5G`, `10MiB`, `0x1000`.
 *
 * @returns bytes
 * @throws {StreamdiskError} `invalid-argument` that quotes the text
 */
export function parseSize(text: string): number {
  return sizeIn(text, text, "size");
}

/** Reads a rate in bytes per second: a size that may end in `/s`. */
export function parseRate(text: string): number {
  return sizeIn(text.endsWith("/s") ? text.slice(0, -2) : text, text, "rate");
}

/**
 * Reads a duration: `500ms`, `30s`, `5m`, `2h`.
 *
 * @returns milliseconds
 * @throws {StreamdiskError} `invalid-argument` that quotes the text
 */
export function parseDuration(text: string): number {
  const match = DURATION.exec(text);
  const unit = match?.[2];
  if (match === null || unit === undefined) {
    throw invalid(`'${text}' is not a duration; write for example 500ms, 30s, 5m or 2h`);
  }
  const milliseconds = Math.round(Number(match[1]) * (MILLISECONDS[unit] ?? Number.NaN));
  if (!Number.isSafeInteger(milliseconds)) throw invalid(`'${text}' is too long a duration`);
  return milliseconds;
}

function sizeIn(number: string, text: string, what: "size" | "rate"): number {
  if (/^0x[0-9a-f]+$/i.test(number)) return bounded(BigInt(number), text);
  if (/^-/.test(number)) throw invalid(`'${text}' is negative; a ${what} is at least 0`);
  const match = SIZE.exec(number);
  const whole = match?.[1];
  const fraction = match?.[2];
  if (match === null || (whole === undefined && !fraction)) {
    throw invalid(`'${text}' is not a ${what}; write a number of bytes or for example 64K, 1.5G`);
  }
  const unit = multiplier(match[3] ?? "", `${whole ?? 0}`, text, what);
  if (fraction !== undefined && unit === 1n) {
    throw invalid(`'${text}' is not a ${what}: there is no fraction of a byte; add a suffix such as M or G`);
  }
  const part = BigInt(Math.floor(Number(`0.${fraction || 0}`) * Number(unit)));
  return bounded(BigInt(whole ?? 0) * unit + part, text);
}

function multiplier(suffix: string, digits: string, text: string, what: string): bigint {
  if (suffix === "" || suffix === "B") return 1n;
  const letter = suffix.charAt(0).toUpperCase();
  const power = SUFFIXES.indexOf(letter) + 1;
  if (/^.(iB?)?$/.test(suffix) && power > 0) return 1024n ** BigInt(power);
  const meant = power > 0 ? `${digits}${letter}` : digits;
  if (/^[KMGTPE]B(ps)?$/i.test(suffix) && suffix.includes("B")) {
    throw invalid(`'${text}' may mean powers of 1000; write ${meant} or ${meant}iB for powers of 1024`);
  }
  if (/^([KMGTPE]i?)?(b|bits?|bps)$/i.test(suffix)) {
    throw invalid(`'${text}' counts bits; a ${what} is in bytes: write for example ${meant} for ${formatUnit(power)}`);
  }
  throw invalid(`'${text}' is not a ${what}: unknown suffix '${suffix}'; use K, M, G, T, P or E (powers of 1024)`);
}

function formatUnit(power: number): string {
  return power === 0 ? "bytes" : `${SUFFIXES.charAt(power - 1)}iB`;
}

function bounded(bytes: bigint, text: string): number {
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw invalid(`'${text}' is too big; the largest number of bytes is ${Number.MAX_SAFE_INTEGER} (8 PiB less one)`);
  }
  return Number(bytes);
}

/** Prints bytes the way qemu-img does: three digits and a unit. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let power = 0;
  while (value >= 1000 && power < SUFFIXES.length) {
    value /= 1024;
    power++;
  }
  const digits = String(Number(value.toPrecision(3)));
  return power === 0 ? `${digits} B` : `${digits} ${SUFFIXES.charAt(power - 1)}iB`;
}

/** Prints a time span for people: `850 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return seconds % 60 === 0 ? `${minutes} min` : `${minutes} min ${seconds % 60} s`;
  return minutes % 60 === 0 ? `${minutes / 60} h` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function invalid(message: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", message);
}
