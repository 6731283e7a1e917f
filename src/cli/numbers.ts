/** Plain numbers on the command line. */
import { StreamdiskError } from "../errors/index.ts";

/** @throws {StreamdiskError} `invalid-argument`, as all here */
export function parsePort(text: string): number {
  const port = parseCount(text);
  if (port <= 65535) return port;
  throw new StreamdiskError("invalid-argument", `'${text}' is not a port: they end at 65535`);
}

/** Permissions, in octal. */
export function parseMode(text: string): number {
  if (/^0?[0-7]{3}$/.test(text)) return Number.parseInt(text, 8);
  throw new StreamdiskError("invalid-argument", `'${text}' is not a mode: write three octal digits, such as 660`);
}

export function parseCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new StreamdiskError("invalid-argument", `'${text}' is not a whole number`);
}
