/**
 * What a guest meets on a disk that is not all there: copy-on-read over a source that answers late, and the latency of single reads
 * while a stream runs, against QEMU's storage daemon with the same images. The source's bytes are made up as they are asked for
 * (nbdkit's pattern plugin), and the client looks at them.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type LiveQemu, startStorageDaemon } from "../test/support/qemu.ts";
import { must } from "./child.ts";
import { type Load, type LoadResult, runLoad } from "./load.ts";
import { type Cells, mebibytes, median, ratio, type Section, type Sizes, type Target } from "./section.ts";
import { type ServerProcess, STREAMDISK, startServer } from "./served.ts";

const KIB = 2 ** 10;
const MIB = 2 ** 20;
/** QEMU and we fetch at least a cluster. */
const UNIT = 64 * KIB;
/** Copy-on-read: what is read once. */
const COLD = 2048 * MIB;
/** Beside a stream: a disk that lasts longer than the load, its first part local. */
const LARGE = 32 * 1024 * MIB;
const LOCAL = 64 * MIB;

/** Of p50 and p99 beside a stream, as a multiple of those without. */
const AGAINST_CALM: readonly Target[] = [
  [2, 1.3],
  [3, 2],
];

export function guestSection(directory: string, { runs = 3, seconds = 2 }: Sizes): Section {
  const bench = new GuestBench(directory, runs, seconds);
  return {
    name: "guest",
    heading: "A guest beside it",
    about: `A qcow2 overlay over an export that answers late; ${runs} runs.
- \`copy-on-read\`: 4 KiB reads at depth 32, one in each of ${COLD / UNIT} clusters that are missing: reads a second, ours against those of
  QEMU's copy-on-read filter. **Above 1 we are faster.**
- \`local\` and \`missing\`: 4 KiB reads one after the other, of data that is in the overlay and of data that is not, for ${seconds} s: p50
  and p99 in milliseconds without a stream and beside one, and the ratio of the two. **1 is undisturbed**, for QEMU too.
- \`memory\`: high-water mark of resident memory of \`serve --stream\` (150 MiB at most, 100 would be fine), and of the same with reads of
  missing data at depth 32.`,
    rows: [
      { name: "copy-on-read-1ms", measure: () => bench.copyOnRead("copy-on-read-1ms", 1) },
      { name: "local-0ms", measure: () => bench.besideStream("local-0ms", 0, "local") },
      { name: "local-5ms", measure: () => bench.besideStream("local-5ms", 5, "local") },
      { name: "missing-5ms", measure: () => bench.besideStream("missing-5ms", 5, "missing") },
      { name: "missing-5ms-slow", measure: () => bench.besideStream("missing-5ms-slow", 5, "missing", 50) },
      { name: "memory-20ms", measure: () => bench.memory("memory-20ms", 20) },
    ],
  };
}

type Side = "streamdisk" | "QEMU";
const SIDES: readonly Side[] = ["streamdisk", "QEMU"];

class GuestBench {
  readonly #directory: string;
  readonly #runs: number;
  readonly #seconds: number;

  constructor(directory: string, runs: number, seconds: number) {
    this.#directory = directory;
    this.#runs = runs;
    this.#seconds = seconds;
  }

  get #source(): string {
    return this.#path("source");
  }

  get #socket(): string {
    return this.#path("socket");
  }

  get #image(): string {
    return this.#path("vm.qcow2");
  }

  #path(name: string): string {
    return join(this.#directory, name);
  }

  async copyOnRead(row: string, delay: number): Promise<Cells> {
    await using _source = await startServer(lateSource(this.#source, COLD, delay), this.#source);
    const rates: Record<Side, number[]> = { streamdisk: [], QEMU: [] };
    for (let run = 0; run < this.#runs; run++) {
      for (const side of SIDES) {
        this.#makeOverlay(COLD, 0);
        await using _server = await this.#serve(side, { copyOnRead: true });
        const { perSecond } = await runLoad({ ...this.#reads(0, COLD), depth: 32 });
        rates[side].push(perSecond);
      }
    }
    const [ours, theirs] = [median(rates.streamdisk), median(rates.QEMU)];
    const told = (rate: number): string => `${Math.round(rate)}/s`;
    return { row, streamdisk: told(ours), QEMU: told(theirs), ratio: ratio(ours / theirs, [1.5, 3]) };
  }

  async besideStream(row: string, delay: number, what: "local" | "missing", rate?: number): Promise<Cells> {
    await using _source = await startServer(lateSource(this.#source, LARGE, delay, rate), this.#source);
    const calm: Record<Side, LoadResult[]> = { streamdisk: [], QEMU: [] };
    const beside: Record<Side, LoadResult[]> = { streamdisk: [], QEMU: [] };
    for (let run = 0; run < this.#runs; run++) {
      for (const side of SIDES) {
        calm[side].push(await this.#latencies(side, what, false));
        beside[side].push(await this.#latencies(side, what, true));
      }
    }
    const cells: Record<string, string> = { row };
    for (const side of SIDES) {
      const both = (["p50", "p99"] as const).map((field, index) => {
        const [before, after] = [calm[side], beside[side]].map((results) => median(results.map((one) => one[field])));
        const times = `${before?.toFixed(2)} to ${after?.toFixed(2)} ms`;
        return {
          field,
          times,
          ratio: ratio((after as number) / (before as number), side === "QEMU" ? undefined : AGAINST_CALM[index]),
        };
      });
      for (const { field, times } of both) cells[`${side} ${field}`] = times;
      for (const { field, ratio } of both) cells[`${side} ratio ${field}`] = ratio;
    }
    return cells;
  }

  async #latencies(side: Side, what: "local" | "missing", streams: boolean): Promise<LoadResult> {
    this.#makeOverlay(LARGE, LOCAL);
    await using server = await this.#serve(side, { streams });
    const load = what === "local" ? this.#reads(0, LOCAL) : this.#reads(LARGE / 2, LARGE);
    const order = what === "local" ? "random" : "once";
    // A stream takes a moment to be at full speed, and a program to be warm.
    const warm = { ...load, from: load.to - LOCAL / 4, order: "random", depth: 1, seconds: 0.7 } as const;
    await runLoad(warm);
    const result = await runLoad({ ...load, to: load.to - LOCAL / 4, order, depth: 1, seconds: this.#seconds });
    if (streams) await server.mustStream();
    return result;
  }

  async memory(row: string, delay: number): Promise<Cells> {
    await using _source = await startServer(lateSource(this.#source, LARGE, delay), this.#source);
    const alone: number[] = [];
    const beside: number[] = [];
    for (let run = 0; run < this.#runs; run++) {
      this.#makeOverlay(LARGE, LOCAL);
      await using server = await this.#serve("streamdisk", { streams: true });
      await sleep(this.#seconds * 1000);
      alone.push(server.peak());
      await runLoad({ ...this.#reads(LARGE / 2, LARGE), depth: 32, seconds: this.#seconds });
      await server.mustStream();
      beside.push(server.peak());
    }
    return { row, streamdisk: mebibytes(median(alone)), "with reads": mebibytes(median(beside)) };
  }

  #reads(from: number, to: number): Omit<Load, "depth"> {
    const pattern = from >= LOCAL || to > LOCAL;
    return { socket: this.#socket, command: "read", block: 4 * KIB, order: "once", unit: UNIT, from, to, pattern };
  }

  /** An overlay whose first part is local. */
  #makeOverlay(length: number, local: number): void {
    rmSync(this.#image, { force: true });
    const uri = `nbd+unix:///?socket=${this.#source}`;
    must("qemu-img", "create", "-q", "-f", "qcow2", "-b", uri, "-F", "raw", this.#image, String(length));
    const writes: string[] = [];
    for (let at = 0; at < local; at += 16 * MIB) writes.push("-c", `write -q -P 7 ${at} 16M`);
    if (writes.length > 0) must("qemu-io", "-f", "qcow2", ...writes, this.#image);
    must("sync");
  }

  #serve(side: Side, options: { copyOnRead?: boolean; streams?: boolean }): Promise<ServedOverlay> {
    return side === "QEMU"
      ? serveWithQemu(this.#image, this.#socket, options)
      : serveWithStreamdisk(this.#image, this.#socket, options);
  }
}

interface ServedOverlay extends AsyncDisposable {
  /** Throws when the stream has ended. */
  mustStream(): Promise<void>;
  peak(): number;
}

async function serveWithStreamdisk(
  image: string,
  socket: string,
  { streams = false }: { streams?: boolean },
): Promise<ServedOverlay> {
  const flags = ["--socket", socket, "--allow-backing", "any", "--json", ...(streams ? ["--stream"] : [])];
  const server: ServerProcess = await startServer([...STREAMDISK, "serve", image, ...flags], socket);
  return {
    mustStream: async () => {
      const lines = server.said().map((line) => JSON.parse(line) as { event: string; localBytes?: number });
      const end = lines.find(({ event }) => event === "hydrated" || event === "stream-failed");
      const local = lines.findLast(({ event }) => event === "status")?.localBytes ?? 0;
      if (end !== undefined || local < 2 * LOCAL) {
        throw new Error(`There is no stream: ${local} bytes are local, and it said ${JSON.stringify(end)}`);
      }
    },
    peak: () => server.peak(),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function serveWithQemu(
  image: string,
  socket: string,
  { copyOnRead = false, streams = false }: { copyOnRead?: boolean; streams?: boolean },
): Promise<ServedOverlay> {
  rmSync(socket, { force: true });
  const overlay = { driver: "qcow2", "node-name": "disk", file: { driver: "file", filename: image } };
  const filter = { driver: "copy-on-read", "node-name": "top", file: "disk" };
  const qemu: LiveQemu = await startStorageDaemon(...(copyOnRead ? [overlay, filter] : [overlay]));
  await qemu.execute("nbd-server-start", { addr: { type: "unix", data: { path: socket } } });
  const exported = { type: "nbd", id: "export", "node-name": copyOnRead ? "top" : "disk", name: "" };
  await qemu.execute("block-export-add", { ...exported, writable: !copyOnRead });
  if (streams) await qemu.execute("block-stream", { "job-id": "stream", device: "disk" });
  return {
    mustStream: async () => {
      const jobs = (await qemu.execute("query-block-jobs")) as unknown[];
      if (jobs.length === 0) throw new Error("QEMU's stream has ended");
    },
    peak: () => Number.NaN,
    [Symbol.asyncDispose]: () => qemu.kill(),
  };
}

/** @param rate megabytes a second that the source gives at most */
function lateSource(socket: string, length: number, delay: number, rate?: number): string[] {
  const late = ["--filter=delay", ...(rate === undefined ? [] : ["--filter=rate"])];
  const limits = [`delay-read=${delay}ms`, `delay-extents=${delay}ms`];
  // In bits.
  if (rate !== undefined) limits.push(`rate=${rate * 8}M`);
  return ["nbdkit", "-f", "-r", "-t", "64", "-U", socket, ...late, "pattern", `size=${length}`, ...limits];
}
