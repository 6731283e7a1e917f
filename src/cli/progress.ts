/**
 * How far a long command is, on standard error: a bar that redraws itself on a terminal, a line every few seconds where
 * `--progress` asks for it without one, and otherwise nothing.
 */
import type { Command } from "commander";
import { formatDuration, formatSize } from "./units.ts";

/** A moment of a long operation, in bytes. */
export interface Moment {
  readonly done: number;
  readonly total: number;
  /** Bytes a second. */
  readonly rate?: number | undefined;
  /** Seconds to go. */
  readonly eta?: number | undefined;
  /** Takes the place of the rate: "waiting for the source". */
  readonly note?: string | undefined;
}

/** Of operations that know no bytes. */
interface Fraction {
  readonly fraction: number;
}

/** Where the meter draws: a part of a terminal's stream. */
export interface MeterScreen {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

const REDRAW_MS = 100;
const LINE_MS = 5000;
const BAR_CELLS = 30;
const CLEAR_LINE = "\r\u001b[K";

/** Adds `--progress` and `--no-progress`. */
export function progressOption(command: Command): Command {
  return command
    .option("--progress", "show progress also where standard error is no terminal")
    .option("--no-progress", "show no progress bar");
}

export class ProgressMeter {
  readonly #screen: MeterScreen;
  readonly #mode: "bar" | "lines" | "off";
  readonly #indent: string;
  #drawnAt = Number.NEGATIVE_INFINITY;
  #last: Moment | Fraction | undefined;
  #isDrawn = false;

  /** @param wanted `--progress`, `--no-progress`, or neither */
  constructor(wanted: boolean | undefined, screen: MeterScreen = process.stderr, indent = "") {
    this.#screen = screen;
    this.#indent = indent;
    this.#mode = wanted === false ? "off" : screen.isTTY ? "bar" : wanted ? "lines" : "off";
  }

  /** Shows a moment, unless the last was shown just now. */
  update(moment: Moment | Fraction): void {
    this.#last = moment;
    if (this.#mode === "off") return;
    const now = performance.now();
    if (now - this.#drawnAt < (this.#mode === "bar" ? REDRAW_MS : LINE_MS)) return;
    this.#drawnAt = now;
    this.#draw(moment);
  }

  /** Shows the last moment and leaves it standing. */
  finish(): void {
    if (this.#mode !== "off" && this.#last !== undefined) this.#draw(this.#last);
    if (this.#isDrawn) this.#screen.write("\n");
    this.#isDrawn = false;
    this.#last = undefined;
  }

  /** Takes the bar away, so that something else can be printed. */
  clear(): void {
    if (this.#isDrawn) this.#screen.write(CLEAR_LINE);
    this.#isDrawn = false;
  }

  #draw(moment: Moment | Fraction): void {
    if (this.#mode === "lines") {
      this.#screen.write(`${this.#indent}${figures(moment)}\n`);
      return;
    }
    const text = `${this.#indent}${progressLine(moment)}`;
    this.#screen.write(CLEAR_LINE + text.slice(0, Math.max(20, (this.#screen.columns || 80) - 1)));
    this.#isDrawn = true;
  }
}

/** A bar, and the figures behind it. */
export function progressLine(moment: Moment | Fraction): string {
  const [full, empty] = speaksUtf8() ? ["█", "░"] : ["#", "."];
  const filled = Math.floor(fractionOf(moment) * BAR_CELLS);
  return `${full.repeat(filled)}${empty.repeat(BAR_CELLS - filled)} ${figures(moment)}`;
}

/** ` 45%  120 MiB of 262 MiB  50 MiB/s  3 s left`. */
export function figures(moment: Moment | Fraction): string {
  // Rounded down: 100% is said when nothing is left, not before.
  const percent = `${Math.floor(fractionOf(moment) * 100)}%`.padStart(4);
  if ("fraction" in moment) return percent;
  const { done, total, rate, eta, note } = moment;
  const parts = [percent, `${formatSize(done)} of ${formatSize(total)}`];
  if (note !== undefined) parts.push(note);
  else if (rate !== undefined && rate > 0 && done < total) {
    parts.push(`${formatSize(Math.round(rate))}/s`);
    if (eta !== undefined && Number.isFinite(eta)) parts.push(`${formatDuration(Math.max(1000, eta * 1000))} left`);
  }
  return parts.join("  ");
}

function fractionOf(moment: Moment | Fraction): number {
  if ("fraction" in moment) return Math.min(1, Math.max(0, moment.fraction));
  return moment.total === 0 ? 1 : Math.min(1, moment.done / moment.total);
}

/** Whether the terminal shows more than ASCII. */
export function speaksUtf8(): boolean {
  const { LC_ALL, LC_CTYPE, LANG } = process.env;
  return /utf-?8/i.test(LC_ALL || LC_CTYPE || LANG || "");
}
