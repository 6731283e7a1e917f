/**
 * A daemon with many disks, as a host has them: what a disk costs that does nothing, and one that is streamed; how long a start takes; and how
 * long guests and callers wait while streams run, callers ask and followers listen. The disks are real ones, each with its socket.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DaemonClient } from "../src/client/index.ts";
import { unixTransport } from "../src/host/index.ts";
import { noise } from "../test/support/cli.ts";
import { type LoadResult, runLoad } from "./load.ts";
import { type Cells, seconds as inSeconds, median, type Section, type Sizes } from "./section.ts";
import { type ServerProcess, STREAMDISK, startServer } from "./served.ts";

const MIB = 2 ** 20;
const DISKS = 200;
const STREAMS = 20;
const CALLERS = 50;
const FOLLOWERS = 20;
/** Disks of one source are in one thread. */
const SOURCES = 8;
/** Of each caller; together they stay below what the daemon grants. */
const CALL_EVERY_MS = 250;
/** One call of so many is for all disks. */
const LIST_EACH = 20;
const SETTLE_MS = 2000;
/** A stream that lasts longer than what is measured. */
const SPEED = MIB / 2;

export function daemonSection(directory: string, { runs = 1, size = 64, seconds = 5 }: Sizes): Section {
  return {
    name: "daemon",
    optIn: true,
    heading: "A daemon with many disks",
    about: `${DISKS} disks of ${size} MiB over ${SOURCES} local sources; ${STREAMS} of them are streamed at ${SPEED / 1024} KiB/s, ${CALLERS} callers ask every
${CALL_EVERY_MS} ms (one call of ${LIST_EACH} lists all disks), ${FOLLOWERS} follow the events. Guest reads are 4 KiB at depth 4 on a disk without a stream, for ${seconds} s, "calm" before
all that began. An idle disk is what one of ${DISKS - SOURCES} more adds to a daemon of ${SOURCES}. A start is from the command until all disks are served and the API answers. Memory is resident. Runs: ${runs}.`,
    rows: [{ name: "many-disks", measure: () => measure(join(directory, "daemon"), runs, size, seconds) }],
  };
}

interface Figures {
  readonly start: number;
  readonly idle: number;
  readonly streaming: number;
  readonly calm: LoadResult;
  readonly busy: LoadResult;
  readonly calls: readonly number[];
}

async function measure(directory: string, runs: number, size: number, seconds: number): Promise<Cells> {
  const all: Figures[] = [];
  for (let run = 0; run < runs; run++) all.push(await runOnce(join(directory, String(run)), size, seconds));
  const middle = (of: (figures: Figures) => number): number => median(all.map(of));
  const kibibytes = (bytes: number): string => `${Math.round(bytes / 1024)} KiB`;
  const milliseconds = (value: number): string => `${value.toFixed(2)} ms`;
  return {
    row: "many-disks",
    start: inSeconds(middle(({ start }) => start) / 1000),
    "an idle disk": kibibytes(middle(({ idle }) => idle)),
    "a streamed disk": kibibytes(middle(({ streaming }) => streaming)),
    "reads p95, calm": milliseconds(middle(({ calm }) => calm.p95)),
    "reads p95": milliseconds(middle(({ busy }) => busy.p95)),
    "reads p99": milliseconds(middle(({ busy }) => busy.p99)),
    "calls p50": milliseconds(middle(({ calls }) => percentile(calls, 0.5))),
    "calls p95": milliseconds(middle(({ calls }) => percentile(calls, 0.95))),
  };
}

async function runOnce(directory: string, size: number, seconds: number): Promise<Figures> {
  const images = join(directory, "images");
  mkdirSync(images, { recursive: true });
  const sources = Array.from({ length: SOURCES }, (_, at) => join(images, `base-${at}.raw`));
  for (const [at, path] of sources.entries()) writeFileSync(path, noise(size * MIB, at + 1));
  const socket = join(directory, "daemon.sock");
  const start = (): Promise<ServerProcess> =>
    startServer(
      [
        ...[...STREAMDISK, "daemon", "--state-directory", directory, "--allow", images],
        ...["--max-streams", String(STREAMS), "--log-level", "error"],
      ],
      socket,
    );
  const client = new DaemonClient(unixTransport(socket));
  const name = (at: number): string => `vm${at}`;
  const create = async (from: number, to: number): Promise<void> => {
    await using _ = await start();
    for (let at = from; at < to; at++) {
      const backing = sources[at % SOURCES] as string;
      await client.call("createDisk", { body: { name: name(at), backing, backingFormat: "raw" } });
    }
  };
  await create(0, SOURCES);
  const few = await memoryOf(start);
  await create(SOURCES, DISKS);
  const began = performance.now();
  await using daemon = await start();
  const took = performance.now() - began;
  await sleep(SETTLE_MS);
  const idle = (daemon.memory() - few) / (DISKS - SOURCES);

  const last = await client.disk(name(DISKS - 1)).info();
  if (last.address.kind !== "unix") throw new Error("The disk is not on a Unix socket");
  const load = { socket: last.address.path, command: "read", block: 4096, depth: 4, order: "random" } as const;
  const reads = { ...load, from: 0, to: (size * MIB) / 4, seconds };
  await runLoad(reads);
  const calm = await runLoad(reads);
  const before = daemon.memory();
  for (let at = 0; at < STREAMS; at++) await client.disk(name(at)).stream({ speed: SPEED });
  await sleep(SETTLE_MS);
  const streaming = (daemon.memory() - before) / STREAMS;

  const over = new AbortController();
  const calls: number[] = [];
  const callers = Array.from({ length: CALLERS }, (_, at) => call(client, at, calls, over.signal));
  const followers = Array.from({ length: FOLLOWERS }, () => follow(client, over.signal));
  const busy = await runLoad(reads);
  const { events } = await client.call("listEvents", { query: { limit: 1 } });
  if (events.length !== 1) throw new Error("There are no events");
  for (let at = 0; at < STREAMS; at++) {
    const { state } = await client.disk(name(at)).streamInfo();
    if (state !== "running") throw new Error(`The stream of ${name(at)} is ${state}`);
  }
  await client.disk(name(0)).cancel();
  await sleep(500);
  over.abort();
  await Promise.all(callers);
  const heard = await Promise.all(followers);
  if (heard.some((types) => !types.includes("job-cancelled"))) throw new Error("A follower has missed an event");
  return { start: took, idle, streaming, calm, busy, calls };
}

/** What a daemon takes that has just come to rest. */
async function memoryOf(start: () => Promise<ServerProcess>): Promise<number> {
  await using daemon = await start();
  await sleep(SETTLE_MS);
  return daemon.memory();
}

/** Asks for one disk, and now and then for all of them, as a page does. */
async function call(client: DaemonClient, caller: number, took: number[], signal: AbortSignal): Promise<void> {
  const disk = `vm${caller}`;
  for (let count = caller; !signal.aborted; count++) {
    const began = performance.now();
    if (count % LIST_EACH === 0) await client.call("listDisks", { query: { limit: DISKS } });
    else await client.disk(disk).info();
    took.push(performance.now() - began);
    await sleep(CALL_EVERY_MS, undefined, { signal }).catch(() => {});
  }
}

async function follow(client: DaemonClient, signal: AbortSignal): Promise<string[]> {
  const types: string[] = [];
  for await (const { type } of client.watch({ signal })) types.push(type);
  return types;
}

function percentile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}
