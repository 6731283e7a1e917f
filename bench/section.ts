/** A part of the benchmark: rows that are measured the same way, and go into one table. */

export interface Section {
  /** For --group. */
  readonly name: string;
  /** Measured only when it is asked for. */
  readonly optIn?: true;
  readonly heading: string;
  /** How it is measured, and what its figures mean. */
  readonly about: string;
  readonly rows: readonly Row[];
}

export interface Row {
  /** For --rows. */
  readonly name: string;
  /** Throws when a run did not do what it should. */
  readonly measure: () => Promise<Cells>;
}

/** Columns of a table by their heads. Rows may leave some away. */
export type Cells = Readonly<Record<string, string>>;

/** What the user has said; absent: what suits the section. */
export interface Sizes {
  /** Runs of each side. */
  readonly runs?: number | undefined;
  /** Virtual size of images in MiB. */
  readonly size?: number | undefined;
  /** Seconds of a load. */
  readonly seconds?: number | undefined;
}

/** The middle one. Of an even number, the mean of the two in the middle. */
export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** What must be reached, and what would be fine. */
export type Target = readonly [number, number];

/** A ratio with its target behind it. */
export function ratio(value: number, target?: Target): string {
  const said = value.toFixed(2);
  return target === undefined ? said : `${said} (${target.join(" / ")})`;
}

export function seconds(value: number): string {
  return `${value.toFixed(2)} s`;
}

export function mebibytes(value: number): string {
  return `${Math.round(value / 2 ** 20)} MiB`;
}
