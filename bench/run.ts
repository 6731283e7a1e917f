/**
 * `npm run bench`: streamdisk as a user runs it (the built program in a process of its own) against its peers, in turn: ours,
 * theirs, ours, theirs. Prints tables; judges nothing.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { daemonSection } from "./daemon-load.ts";
import { deploySection } from "./deploy.ts";
import { guestSection } from "./guest.ts";
import { offlineSection } from "./offline.ts";
import { describeMachine, type MeasuredSection, page, type Report, table } from "./report.ts";
import type { Cells, Section } from "./section.ts";
import { serverSection } from "./server.ts";
import { streamSection } from "./stream.ts";

const HELP = `npm run bench -- [OPTIONS]

  --group NAMES  only some parts, separated by commas: offline, stream, server, guest; and daemon, deploy,
                 which are left out unless they are named
  --rows NAMES   only rows whose names contain one of these, separated by commas
  --runs N       runs of each side (3)
  --size MIB     virtual size of images in MiB (offline 4096, stream 1024, server 1024, deploy 1024)
  --seconds N    length of a load on a server (2)
  --json         print JSON
  --write        keep the tables in bench/RESULTS.md
  --help         this

Files are made in a temporary directory (TMPDIR decides where), which needs up to 16 GiB. On a machine where others are at work,
put \`chrt -r 1\` in front, as root, or what is measured is who waits longest for a processor.`;

const { values } = parseArgs({
  options: {
    group: { type: "string" },
    rows: { type: "string" },
    runs: { type: "string" },
    size: { type: "string" },
    seconds: { type: "string" },
    json: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(HELP);
  process.exit(0);
}

const machine = describeMachine();
const directory = mkdtempSync(join(tmpdir(), "streamdisk-bench-"));
try {
  const sizes = {
    runs: wholeNumber("--runs", values.runs),
    size: wholeNumber("--size", values.size),
    seconds: wholeNumber("--seconds", values.seconds),
  };
  const makers = [offlineSection, streamSection, serverSection, guestSection, daemonSection, deploySection];
  const chosen = choose(makers.map((make) => make(directory, sizes)));
  const sections: MeasuredSection[] = [];
  for (const section of chosen) sections.push(await measure(section));
  const report: Report = { date: new Date().toISOString().slice(0, 10), machine, sections };
  if (values.json) console.log(JSON.stringify(report, null, 2));
  if (values.write) {
    const results = join(import.meta.dirname, "RESULTS.md");
    writeFileSync(results, page(report, readFileSync(results, "utf8")));
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}

/** The sections and rows that the user wants. */
function choose(all: readonly Section[]): Section[] {
  const groups = values.group?.split(",");
  const parts = values.rows?.split(",");
  if (values.write && parts !== undefined) throw new Error("--write keeps whole tables: leave --rows away");
  const chosen = all
    .filter(({ name, optIn }) => groups?.includes(name) ?? !optIn)
    .map((section) => ({
      ...section,
      rows: section.rows.filter(({ name }) => parts?.some((part) => name.includes(part)) ?? true),
    }))
    .filter(({ rows }) => rows.length > 0);
  if (chosen.length > 0) return chosen;
  const names = all.map(({ name, rows }) => `${name}: ${rows.map((row) => row.name).join(", ")}`);
  throw new Error(`There are no such rows. There are\n${names.join("\n")}`);
}

async function measure({ name, heading, about, rows }: Section): Promise<MeasuredSection> {
  const cells: Cells[] = [];
  for (const [index, row] of rows.entries()) {
    console.error(`${name} ${index + 1}/${rows.length} ${row.name}`);
    cells.push(await row.measure());
  }
  if (!values.json) console.log(`\n${heading}\n\n${table(cells)}\n`);
  return { heading, about, rows: cells };
}

function wholeNumber(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`${option} must be a whole number above 0, not '${text}'`);
}
