/**
 * `npm run bench`: streamdisk as a user runs it (the built program in a process of its own) against its peers, in turn: ours,
 * theirs, ours, theirs. Prints a table; judges nothing.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { measure, must, type Usage } from "./child.ts";
import { Images } from "./images.ts";
import { describeMachine, type Measured, measured, page, type Report, table } from "./report.ts";
import { offlineRows, type Row } from "./rows.ts";

const ROOT = join(import.meta.dirname, "..");
const HELP = `npm run bench -- [OPTIONS]

  --rows NAMES   only rows whose names contain one of these, separated by commas
  --runs N       runs of each side (5)
  --size MIB     virtual size of the images in MiB (4096)
  --json         print JSON
  --write        keep the table in bench/RESULTS.md
  --help         this

Images are made in a temporary directory (TMPDIR decides where), which needs up to four times the size.`;

const { values } = parseArgs({
  options: {
    rows: { type: "string" },
    runs: { type: "string", default: "5" },
    size: { type: "string", default: "4096" },
    json: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(HELP);
  process.exit(0);
}

const runs = wholeNumber("--runs", values.runs);
const size = wholeNumber("--size", values.size);
const machine = describeMachine();
const directory = mkdtempSync(join(tmpdir(), "streamdisk-bench-"));
try {
  const all = offlineRows(new Images(directory, size));
  const wanted = values.rows?.split(",");
  const rows = all.filter(({ name }) => wanted?.some((part) => name.includes(part)) ?? true);
  if (rows.length === 0)
    throw new Error(`No row is named ${values.rows}: there are ${all.map(({ name }) => name).join(", ")}`);
  if (values.write && rows.length < all.length) throw new Error("--write keeps whole tables: leave --rows away");
  const results: Measured[] = [];
  for (const [index, row] of rows.entries()) {
    console.error(`${index + 1}/${rows.length} ${row.title}`);
    results.push(await runRow(row));
  }
  const date = new Date().toISOString().slice(0, 10);
  const report: Report = { date, machine, sizeMebibytes: size, runs, rows: results };
  console.log(values.json ? JSON.stringify(report, null, 2) : table(report));
  if (values.write) writeFileSync(join(import.meta.dirname, "RESULTS.md"), page(report));
} finally {
  rmSync(directory, { recursive: true, force: true });
}

async function runRow(row: Row): Promise<Measured> {
  const ours: Usage[] = [];
  const theirs: Usage[] = [];
  const streamdisk = [process.execPath, join(ROOT, "bin/streamdisk.js"), ...row.ours];
  row.setUp();
  for (let run = 0; run < runs; run++) {
    ours.push(await runOnce(row, streamdisk, run === 0));
    theirs.push(await runOnce(row, row.theirs, run === 0));
  }
  return measured(row, ours, theirs);
}

/** What earlier runs wrote is on the disk before this one begins, and not written back meanwhile. */
async function runOnce(row: Row, command: readonly string[], verify: boolean): Promise<Usage> {
  row.prepare?.();
  must("sync");
  const usage = await measure(command);
  if (verify) row.verify?.();
  return usage;
}

function wholeNumber(option: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`${option} must be a whole number above 0, not '${text}'`);
}
