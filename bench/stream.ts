/**
 * Filling an overlay from a source that answers late: an NBD server (nbdkit) that waits before each of its answers, as a network
 * would. `streamdisk stream` and `serve --stream` against QEMU's block-stream, and against nbdcopy, which keeps no overlay.
 */
import { copyFileSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type LiveQemu, startStorageDaemon } from "../test/support/qemu.ts";
import { measure, must } from "./child.ts";
import { Images } from "./images.ts";
import { type Cells, mebibytes, median, ratio, type Section, type Sizes, seconds, type Target } from "./section.ts";
import { STREAMDISK, startServer } from "./served.ts";

interface Delay {
  /** Milliseconds. */
  readonly delay: number;
  /** How many times as fast as QEMU. */
  readonly target: Target;
  /** QEMU fetches as fast at the beginning of a disk as at its end: this part of it is enough. */
  readonly part: number;
}

const DELAYS: readonly Delay[] = [
  { delay: 0, target: [1.5, 2], part: 1 },
  { delay: 1, target: [4, 8], part: 1 / 2 },
  { delay: 5, target: [10, 40], part: 1 / 4 },
  { delay: 20, target: [20, 40], part: 1 / 8 },
];
/** How many times as fast as nbdcopy. */
const AGAINST_NBDCOPY: Target = [0.7, 1];
const POLL_MS = 5;

export function streamSection(directory: string, { runs = 3, size = 1024 }: Sizes): Section {
  return {
    name: "stream",
    heading: "A stream over NBD",
    about: `An empty qcow2 overlay over an export of ${size} MiB, half of it holes, that answers 0 to 20 ms late, each request by itself;
${runs} runs of each, everything written back before each. \`stream\` and \`serve --stream --exit-when-hydrated\` are whole commands (0.1
to 0.2 s are the start of Node.js) and end with the image durable and independent; QEMU's is its job alone, which ends without a
flush, and is measured on the beginning of the disk (an eighth at 20 ms) and counted for the whole; nbdcopy copies into a raw file, with
\`--flush\`. Ratios are of time, the peer's to that of \`stream\`: **above 1 we are faster**. Peak is that of \`serve\`.`,
    rows: DELAYS.map((delay) => ({
      name: `stream-${delay.delay}ms`,
      measure: () => measureDelay(new Images(directory, size), size, runs, delay),
    })),
  };
}

async function measureDelay(
  images: Images,
  size: number,
  runs: number,
  { delay, target, part }: Delay,
): Promise<Cells> {
  images.makeSource("holes.raw");
  const [socket, template, image] = [images.path("source"), images.path("template.qcow2"), images.path("vm.qcow2")];
  const [base, copy] = [images.path("holes.raw"), images.path("copy.raw")];
  const uri = `nbd+unix:///?socket=${socket}`;
  await using _source = await startServer(delayedFile(base, delay, socket), socket);
  const create = ["create", "-q", "-f", "qcow2", "-b", uri, "-F", "raw"];
  must("qemu-img", ...create, template);

  const times = { stream: [], serve: [], qemu: [], nbdcopy: [] } as Record<
    "stream" | "serve" | "qemu" | "nbdcopy",
    number[]
  >;
  const peaks: number[] = [];
  const allow = ["--allow-backing", uri];
  for (let run = 0; run < runs; run++) {
    const check = (path: string, format: string): void => {
      if (run === 0) must("qemu-img", "compare", "-q", "-f", format, "-F", "raw", path, base);
    };
    const fresh = (): void => {
      rmSync(copy, { force: true });
      copyFileSync(template, image);
      must("sync");
    };
    fresh();
    times.stream.push((await measure([...STREAMDISK, "stream", image, ...allow])).wall);
    mustStandAlone(image);
    check(image, "qcow2");
    fresh();
    const served = await measure([...STREAMDISK, "serve", image, "--stream", "--exit-when-hydrated", ...allow]);
    times.serve.push(served.wall);
    peaks.push(served.peak);
    mustStandAlone(image);
    check(image, "qcow2");
    fresh();
    must("qemu-img", ...create, image, `${size * part}M`);
    times.qemu.push((await streamWithQemu(image)) / part);
    mustStandAlone(image);
    fresh();
    times.nbdcopy.push((await measure(["nbdcopy", "--flush", uri, copy])).wall);
    check(copy, "raw");
  }
  rmSync(image);
  rmSync(copy);
  const [stream, qemu, nbdcopy] = [median(times.stream), median(times.qemu), median(times.nbdcopy)];
  return {
    row: `stream-${delay}ms`,
    stream: seconds(stream),
    serve: seconds(median(times.serve)),
    peak: mebibytes(median(peaks)),
    QEMU: seconds(qemu),
    nbdcopy: seconds(nbdcopy),
    "against QEMU": ratio(qemu / stream, target),
    "against nbdcopy": ratio(nbdcopy / stream, AGAINST_NBDCOPY),
  };
}

/** A network has no limit to requests on their way; nbdkit has 16 of a connection unless told otherwise. */
function delayedFile(path: string, delay: number, socket: string): string[] {
  const late = [`delay-read=${delay}ms`, `delay-extents=${delay}ms`];
  return ["nbdkit", "-f", "-r", "-t", "64", "-U", socket, "--filter=delay", "file", path, ...late];
}

async function streamWithQemu(image: string): Promise<number> {
  const node = { driver: "qcow2", "node-name": "disk", file: { driver: "file", filename: image } };
  await using qemu: LiveQemu = await startStorageDaemon(node);
  const start = performance.now();
  await qemu.execute("block-stream", { "job-id": "stream", device: "disk" });
  while (((await qemu.execute("query-block-jobs")) as unknown[]).length > 0) await sleep(POLL_MS);
  const time = (performance.now() - start) / 1000;
  await qemu.execute("quit");
  return time;
}

function mustStandAlone(image: string): void {
  if (must("qemu-img", "info", "-U", "-f", "qcow2", image).includes("backing file")) {
    throw new Error(`'${image}' has a backing file still`);
  }
}
