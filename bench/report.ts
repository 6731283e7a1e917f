/** What the measurements were made on, and how they are printed. */
import { execFileSync } from "node:child_process";
import { cpus, loadavg, release, totalmem } from "node:os";
import type { Cells } from "./section.ts";

export interface MeasuredSection {
  readonly heading: string;
  readonly about: string;
  readonly rows: readonly Cells[];
}

export interface Report {
  readonly date: string;
  readonly machine: Readonly<Record<string, string>>;
  readonly sections: readonly MeasuredSection[];
}

export function describeMachine(): Report["machine"] {
  const version = (program: string): string => {
    const said = execFileSync(program, ["--version"], { encoding: "utf8" });
    return /(\d+\.\d+\.\d+)/.exec(said)?.[1] ?? "unknown";
  };
  return {
    cores: `${cpus().length} (${cpus()[0]?.model ?? "unknown"})`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    kernel: release(),
    node: process.versions.node,
    qemu: version("qemu-img"),
    nbdkit: version("nbdkit"),
    nbdcopy: version("nbdcopy"),
    // What else went on: 0 on a machine that does nothing else.
    "load average before": (loadavg()[0] as number).toFixed(1),
  };
}

/** A table in Markdown, aligned to be read as it is; text to the left, numbers to the right. */
export function table(rows: readonly Cells[]): string {
  const head = [...new Set(rows.flatMap((cells) => Object.keys(cells)))];
  const body = rows.map((cells) => head.map((name) => cells[name] ?? ""));
  const widths = head.map((name, column) =>
    Math.max(...[name, ...body.map((cells) => cells[column] ?? "")].map(length)),
  );
  const isText = head.map((_, column) => body.every((cells) => !/^\d/.test(cells[column] ?? "")));
  const pad = (cell: string, column: number): string => {
    const width = widths[column] as number;
    return isText[column] ? cell.padEnd(width) : cell.padStart(width);
  };
  const line = (cells: readonly string[]): string => `| ${cells.map(pad).join(" | ")} |`;
  const rules = widths.map((width, column) => (isText[column] ? "-".repeat(width) : `${"-".repeat(width - 1)}:`));
  return [line(head), `| ${rules.join(" | ")} |`, ...body.map(line)].join("\n");
}

function length(text: string): number {
  return text.length;
}

/**
 * The page that `--write` keeps.
 *
 * @param before what it was: parts that were not measured stay as they are
 */
export function page({ date, machine, sections }: Report, before: string): string {
  const { "load average before": load, ...rest } = machine;
  const facts = Object.entries(rest).map(([name, value]) => `${name} ${value}`);
  const [, ...parts] = before.split(/^## /m);
  const all = new Map(parts.map((part) => [part.slice(0, part.indexOf("\n")), part.trimEnd()]));
  for (const { heading, about, rows } of sections) {
    all.set(heading, `${heading}\n\n${about} ${date}, load average before ${load}.\n\n${table(rows)}`);
  }
  return `# Measured speed

\`npm run bench -- --write\` keeps this page: ${facts.join(", ")}.

Peers get the same work, in turn with us, in the same run; figures are medians. Behind a ratio stand what must be reached and what
would be fine. Sources are in the page cache.

${[...all.values()].map((part) => `## ${part}\n`).join("\n")}`;
}
