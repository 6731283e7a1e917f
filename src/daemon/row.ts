/** Records as rows: JSON with a sum over it. `Infinity`, which JSON does not have, is a null in the one place where it may be. */
import { crc32 } from "node:zlib";

export interface Row {
  readonly record: string;
  readonly sum: number;
}

export function toRow(key: string | number, value: object): Row {
  const record = JSON.stringify(value, (name, part) =>
    name === "holdMs" && part === Number.POSITIVE_INFINITY ? null : part,
  );
  return { record, sum: sumOf(key, record) };
}

/** @returns undefined when the sum is wrong */
export function fromRow<T>(key: string | number, { record, sum }: Row): T | undefined {
  if (sumOf(key, record) !== sum) return undefined;
  return JSON.parse(record, (name, part) =>
    name === "holdMs" && part === null ? Number.POSITIVE_INFINITY : part,
  ) as T;
}

function sumOf(key: string | number, record: string): number {
  return crc32(`${key}\n${record}`);
}
