/**
 * `npm run build && node bench/nbd-server.ts [--rows NAMES] [--runs N] [--seconds N] [--json]`: `streamdisk serve` against qemu-nbd
 * and nbdkit, by fio's NBD engine over a Unix socket, in turn. The image is in the page cache. Prints a table; judges nothing.
 *
 * A row is requests a second; the ratio to a peer is that of the medians, above 1 we are faster, with what must be reached and
 * what would be fine. CPU is the server's own, in microseconds a request. On a machine where others are at work, put `chrt -r 1`
 * before it (as root), or what is measured is who waits longest for a processor; on two cores fio itself ends at about
 * 180 000 requests a second.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { must } from "./child.ts";

const { values } = parseArgs({
  options: {
    rows: { type: "string" },
    runs: { type: "string", default: "3" },
    seconds: { type: "string", default: "4" },
    json: { type: "boolean", default: false },
  },
});

const ROOT = join(import.meta.dirname, "..");
const MEBIBYTES = 1024;
const TICK_MS = 10;

type Format = "raw" | "qcow2" | "qed";

interface LoadRow {
  readonly name: string;
  readonly format: Format;
  /** Arguments of fio. */
  readonly load: readonly string[];
  /** Requests a second as a multiple of the peer's: what must be reached, and what would be fine. */
  readonly targets: Readonly<Partial<Record<"qemu-nbd" | "nbdkit", readonly [number, number]>>>;
}

const load = (rw: string, bs: string, depth: number): string[] => [`--rw=${rw}`, `--bs=${bs}`, `--iodepth=${depth}`];

const ROWS: readonly LoadRow[] = [
  {
    name: "raw-4k",
    format: "raw",
    load: load("randread", "4k", 32),
    targets: { "qemu-nbd": [2.5, 3.5], nbdkit: [1.1, 1.5] },
  },
  { name: "raw-4k-depth-1", format: "raw", load: load("randread", "4k", 1), targets: { "qemu-nbd": [1, 1.5] } },
  { name: "raw-1m-read", format: "raw", load: load("read", "1m", 16), targets: { "qemu-nbd": [1, 1.3] } },
  { name: "raw-1m-write", format: "raw", load: load("write", "1m", 16), targets: { "qemu-nbd": [1.5, 2.5] } },
  { name: "raw-4k-write", format: "raw", load: load("randwrite", "4k", 32), targets: {} },
  { name: "qcow2-4k", format: "qcow2", load: load("randread", "4k", 32), targets: { "qemu-nbd": [1.5, 3] } },
  { name: "qed-4k", format: "qed", load: load("randread", "4k", 32), targets: { "qemu-nbd": [1.5, 3] } },
];

interface Rate {
  readonly perSecond: number;
  readonly cpuMicroseconds: number;
}

type Server = "streamdisk" | "qemu-nbd" | "nbdkit";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-bench-nbd-"));
const socket = join(directory, "socket");

/** An image of which every byte is there, at its place. */
function makeImage(format: Format): string {
  const path = join(directory, `disk.${format}`);
  must("qemu-img", "create", "-q", "-f", format, path, `${MEBIBYTES}M`);
  const writes = Array.from({ length: MEBIBYTES / 64 }, (_, index) => `write -q -P ${index + 1} ${index * 64}M 64M`);
  must("qemu-io", "-f", format, ...writes.flatMap((write) => ["-c", write]), path);
  return path;
}

function commandOf(server: Server, path: string, format: Format): string[] {
  if (server === "qemu-nbd") return ["qemu-nbd", "-f", format, "-t", "-k", socket, path];
  if (server === "nbdkit") return ["nbdkit", "-f", "-U", socket, "file", path];
  return [process.execPath, join(ROOT, "bin/streamdisk.js"), "serve", path, "--format", format, "--socket", socket];
}

async function measure(command: readonly string[], row: LoadRow): Promise<Rate> {
  const [program = "", ...args] = command;
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  try {
    while (!existsSync(socket)) await sleep(20);
    await runFio(row, 1);
    const before = cpuOf(child);
    const { total, perSecond } = await runFio(row, Number(values.seconds));
    return { perSecond, cpuMicroseconds: ((cpuOf(child) - before) * 1000) / total };
  } finally {
    child.kill("SIGTERM");
    await once(child, "exit");
    rmSync(socket, { force: true });
  }
}

async function runFio(row: LoadRow, seconds: number): Promise<{ total: number; perSecond: number }> {
  const where = ["--name=load", "--ioengine=nbd", `--uri=nbd+unix:///?socket=${socket}`, `--size=${MEBIBYTES}m`];
  const how = [...row.load, "--time_based", `--runtime=${seconds}`, "--randseed=1", "--output-format=json"];
  const fio = spawn("fio", [...where, ...how], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  fio.stdout.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  await once(fio, "close");
  const { jobs } = JSON.parse(said.slice(said.indexOf("{"))) as { jobs: readonly Job[] };
  const { read, write } = jobs[0] as Job;
  const done = read.total_ios > 0 ? read : write;
  return { total: done.total_ios, perSecond: done.iops };
}

interface Job {
  readonly read: { readonly total_ios: number; readonly iops: number };
  readonly write: { readonly total_ios: number; readonly iops: number };
}

/** Milliseconds of processor time so far (proc(5), "stat", utime and stime). */
function cpuOf({ pid }: ChildProcess): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

async function runRow(row: LoadRow): Promise<Record<string, string>> {
  const path = makeImage(row.format);
  const servers: readonly Server[] =
    row.format === "raw" ? ["streamdisk", "qemu-nbd", "nbdkit"] : ["streamdisk", "qemu-nbd"];
  const rates = new Map<Server, Rate[]>(servers.map((server) => [server, []]));
  for (let run = 0; run < Number(values.runs); run++) {
    for (const server of servers) {
      spawnSync("cat", [path], { stdio: ["ignore", "ignore", "inherit"] });
      rates.get(server)?.push(await measure(commandOf(server, path, row.format), row));
    }
  }
  rmSync(path);
  const rateOf = (server: Server): number => median(rates.get(server)?.map(({ perSecond }) => perSecond) ?? []);
  const cells: Record<string, string> = { row: row.name };
  for (const server of servers) {
    const cpu = median(rates.get(server)?.map(({ cpuMicroseconds }) => cpuMicroseconds) ?? []);
    cells[server] = `${Math.round(rateOf(server))}/s ${cpu.toFixed(1)} us`;
  }
  for (const peer of ["qemu-nbd", "nbdkit"] as const) {
    if (!servers.includes(peer)) continue;
    const target = row.targets[peer];
    const ratio = (rateOf("streamdisk") / rateOf(peer)).toFixed(2);
    cells[`against ${peer}`] = target === undefined ? ratio : `${ratio} (${target.join(" / ")})`;
  }
  return cells;
}

try {
  const wanted = values.rows?.split(",");
  const rows = ROWS.filter(({ name }) => wanted?.some((part) => name.includes(part)) ?? true);
  const before = (loadavg()[0] as number).toFixed(1);
  const results: Record<string, string>[] = [];
  for (const row of rows) {
    console.error(row.name);
    results.push(await runRow(row));
  }
  if (values.json) console.log(JSON.stringify(results, null, 2));
  else {
    const head = ["row", "streamdisk", "qemu-nbd", "nbdkit", "against qemu-nbd", "against nbdkit"];
    console.log(`Load average before: ${before}; after: ${(loadavg()[0] as number).toFixed(1)}\n`);
    console.log(`| ${head.join(" | ")} |\n| --- | ---: | ---: | ---: | ---: | ---: |`);
    for (const cells of results) console.log(`| ${head.map((name) => cells[name] ?? "").join(" | ")} |`);
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}
