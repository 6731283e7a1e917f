/** The log of a daemon: a line of JSON for each thing that happens, on a descriptor. Sources are named without what gives access to them. */
import { destination, pino } from "pino";

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";

/** Levels of pino that the daemon uses. */
export interface Log {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

/** What must not stand in a log, wherever somebody puts it. */
const SECRET = ["token", "*.token", "headers.authorization", "*.headers.authorization"];

/** Logs to a descriptor, synchronously: what was logged before a death is there. */
export function openLog({ level, descriptor = 2 }: { readonly level: LogLevel; readonly descriptor?: number }): Log {
  return pino({ level, base: null, redact: SECRET }, destination({ dest: descriptor, sync: true }));
}

/** Says nothing. */
export const noLog: Log = pino({ level: "silent" });
