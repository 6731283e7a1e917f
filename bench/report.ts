/** What the measurements were made on, and how they are printed. */
import { execFileSync } from "node:child_process";
import { cpus, loadavg, release, totalmem } from "node:os";
import type { Usage } from "./child.ts";
import type { Row } from "./rows.ts";

/** Medians over the runs of a row. */
export interface Measured {
  readonly name: string;
  readonly title: string;
  readonly ours: Usage;
  readonly theirs: Usage;
  /** Wall-clock time as a part of the peer's. */
  readonly ratio: number;
  readonly target?: number | undefined;
  readonly stretch?: number | undefined;
}

export interface Report {
  readonly date: string;
  readonly machine: Readonly<Record<string, string>>;
  readonly sizeMebibytes: number;
  readonly runs: number;
  readonly rows: readonly Measured[];
}

export function measured(row: Row, ours: readonly Usage[], theirs: readonly Usage[]): Measured {
  const [a, b] = [medians(ours), medians(theirs)];
  const { name, title, target, stretch } = row;
  return { name, title, ours: a, theirs: b, ratio: a.wall / b.wall, target, stretch };
}

function medians(runs: readonly Usage[]): Usage {
  const median = (field: keyof Usage): number => {
    const sorted = runs.map((run) => run[field]).sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    const upper = sorted[middle] as number;
    return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] as number)) / 2;
  };
  return { wall: median("wall"), cpu: median("cpu"), peak: median("peak") };
}

export function describeMachine(): Report["machine"] {
  const qemu = execFileSync("qemu-img", ["--version"], { encoding: "utf8" });
  return {
    cores: `${cpus().length} (${cpus()[0]?.model ?? "unknown"})`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    kernel: release(),
    node: process.versions.node,
    qemu: /version (\S+)/.exec(qemu)?.[1] ?? "unknown",
    // What else went on: 0 on a machine that does nothing else.
    "load average before": (loadavg()[0] as number).toFixed(1),
  };
}

/** A table in Markdown, aligned to be read as it is. */
export function table({ rows }: Pick<Report, "rows">): string {
  const head = ["row", "", "wall", "peer's", "ratio", "target", "CPU", "peer's", "peak", "peer's"];
  const body = rows.map(({ name, title, ours, theirs, ratio, target, stretch }) => [
    name,
    title,
    seconds(ours.wall),
    seconds(theirs.wall),
    ratio.toFixed(2),
    target === undefined ? "" : `${target} / ${stretch}`,
    seconds(ours.cpu),
    seconds(theirs.cpu),
    mebibytes(ours.peak),
    mebibytes(theirs.peak),
  ]);
  const widths = head.map((_, column) => Math.max(...[head, ...body].map((cells) => (cells[column] as string).length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (column < 2 ? cell.padEnd(widths[column] as number) : cell.padStart(widths[column] as number))).join(" | ")} |`;
  const rule = `| ${widths.map((width, column) => (column < 2 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)).join(" | ")} |`;
  return [line(head), rule, ...body.map(line)].join("\n");
}

/** The page that `--write` keeps. */
export function page(report: Report): string {
  const { date, sizeMebibytes, runs } = report;
  const facts = Object.entries(report.machine).map(([name, value]) => `${name} ${value}`);
  return `# Measured speed

\`npm run bench -- --write\` keeps this page. ${date}: ${facts.join(", ")}.

Each row is one command on images of ${sizeMebibytes} MiB of which half is data (the compressed one has a quarter of that size), and
the same with qemu-img: \`stream\` against \`rebase -b ""\`, \`convert\` against \`convert -t writeback\` (which flushes in the end, as we
do). ${runs} runs of each in turn, everything written back before each; medians. Sources are in the page cache.

The ratio is of wall-clock time, ours to the peer's: below 1 we are faster. The target is what must be reached and what would be fine.
CPU is user and system time; peak is the high-water mark of resident memory. To start takes 0.1 s of each of our times.

${table(report)}
`;
}

function seconds(value: number): string {
  return `${value.toFixed(2)} s`;
}

function mebibytes(value: number): string {
  return `${Math.round(value / 2 ** 20)} MiB`;
}
