/** What becomes of guest reads that a dead source cannot answer, as it is written: `hold`, `hold:30s,error`, `pause`. */
import { StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import { parseDuration } from "./units.ts";

const PAUSE_AFTER_MS = 10_000;

/**
 * `hold` | `hold:TIME,error` | `hold:TIME,pause` | `pause` (= `hold:10s,pause`) | `error`.
 *
 * @throws {StreamdiskError} `invalid-argument`
 */
export function parseSourcePolicy(text: string): SourcePolicy {
  if (text === "hold") return { holdMs: Number.POSITIVE_INFINITY, afterwards: "error" };
  if (text === "error") return { holdMs: 0, afterwards: "error" };
  if (text === "pause") return { holdMs: PAUSE_AFTER_MS, afterwards: "pause" };
  const [, time, then] = /^hold:([^,]+),(error|pause)$/.exec(text) ?? [];
  if (time !== undefined) return { holdMs: parseDuration(time), afterwards: then === "pause" ? "pause" : "error" };
  throw new StreamdiskError(
    "invalid-argument",
    `'${text}' is no policy for a lost source; write hold, hold:30s,error, hold:30s,pause, pause or error`,
  );
}

/** A policy as the API has it. */
export function sentPolicy({ holdMs, afterwards }: SourcePolicy) {
  return { holdMs: Number.isFinite(holdMs) ? holdMs : null, afterwards };
}
