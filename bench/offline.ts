/** Work on images without a guest: each row does one thing with streamdisk and with qemu-img, to the same files. */
import { copyFileSync, rmSync } from "node:fs";
import { measure, must, type Usage } from "./child.ts";
import { Images, type Source } from "./images.ts";
import { type Cells, mebibytes, median, ratio, type Section, type Sizes, seconds, type Target } from "./section.ts";
import { STREAMDISK } from "./served.ts";

interface OfflineRow {
  readonly name: string;
  readonly title: string;
  /** Wall-clock time as a part of the peer's. Absent: it is only told. */
  readonly target?: Target;
  /** Arguments of streamdisk. */
  readonly ours: readonly string[];
  /** The peer's command. */
  readonly theirs: readonly string[];
  /** Makes what all runs read. */
  readonly setUp: () => void;
  /** Puts the files in place for one run. */
  readonly prepare?: () => void;
  /** Throws unless the run did what it should. */
  readonly verify?: () => void;
}

export function offlineSection(directory: string, { runs = 3, size = 4096 }: Sizes): Section {
  return {
    name: "offline",
    heading: "Without a guest",
    about: `Each row is one command on images of ${size} MiB of which half is data (the compressed one has a quarter of that size), and
the same with qemu-img: \`stream\` against \`rebase -b ""\`, \`convert\` against \`convert -t writeback\` (which flushes in the end, as we
do). ${runs} runs of each, everything written back before each.

The ratio is of wall-clock time, ours to the peer's: **below 1 we are faster**. CPU is user and system time; peak is the high-water
mark of resident memory. To start takes 0.1 s of each of our times.`,
    rows: offlineRows(new Images(directory, size)).map((row) => ({
      name: row.name,
      measure: () => measureRow(row, runs),
    })),
  };
}

async function measureRow(row: OfflineRow, runs: number): Promise<Cells> {
  const ours: Usage[] = [];
  const theirs: Usage[] = [];
  row.setUp();
  for (let run = 0; run < runs; run++) {
    ours.push(await runOnce(row, [...STREAMDISK, ...row.ours], run === 0));
    theirs.push(await runOnce(row, row.theirs, run === 0));
  }
  const [our, their] = [medians(ours), medians(theirs)];
  return {
    row: row.name,
    what: row.title,
    wall: seconds(our.wall),
    "peer's wall": seconds(their.wall),
    ratio: ratio(our.wall / their.wall, row.target),
    CPU: seconds(our.cpu),
    "peer's CPU": seconds(their.cpu),
    peak: mebibytes(our.peak),
    "peer's peak": mebibytes(their.peak),
  };
}

function medians(runs: readonly Usage[]): Usage {
  const middle = (field: keyof Usage): number => median(runs.map((run) => run[field]));
  return { wall: middle("wall"), cpu: middle("cpu"), peak: middle("peak") };
}

/** What earlier runs wrote is on the disk before this one begins, and not written back meanwhile. */
async function runOnce(row: OfflineRow, command: readonly string[], verify: boolean): Promise<Usage> {
  row.prepare?.();
  must("sync");
  const usage = await measure(command);
  if (verify) row.verify?.();
  return usage;
}

function offlineRows(images: Images): OfflineRow[] {
  const { stream, convert } = makers(images);
  const [raw, qcow2] = [images.path("holes.raw"), images.path("holes.qcow2")];
  const setUp = (): void => images.makeSource("holes.qcow2");
  return [
    stream("stream-qcow2", "stream qcow2 over raw", "qcow2", "holes.raw"),
    stream("stream-qed", "stream QED over raw", "qed", "holes.raw"),
    stream("stream-half", "stream qcow2 over raw, half local", "qcow2", "holes.raw", true),
    stream("stream-chain", "stream qcow2 over qcow2", "qcow2", "holes.qcow2"),
    stream("stream-zeroes", "stream qcow2 over raw, zeroes for holes", "qcow2", "zeroes.raw"),
    convert("convert-qcow2", "convert raw to qcow2", "holes.raw", "qcow2"),
    convert("convert-raw", "convert qcow2 to raw", "holes.qcow2", "raw"),
    convert("convert-again", "convert qcow2 to qcow2", "holes.qcow2", "qcow2"),
    convert("convert-compressed", "convert compressed qcow2 to raw", "compressed.qcow2", "raw"),
    {
      name: "compare",
      title: "compare raw with qcow2",
      ours: ["compare", raw, qcow2],
      theirs: ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow2],
      setUp,
    },
    {
      name: "info",
      title: "info, which is mostly the start",
      ours: ["info", qcow2],
      theirs: ["qemu-img", "info", "-f", "qcow2", qcow2],
      setUp,
    },
  ];
}

function makers(images: Images) {
  const stream = (name: string, title: string, format: string, source: Source, populated = false): OfflineRow => {
    const [template, image] = [images.path(`template.${format}`), images.path(`vm.${format}`)];
    return {
      name,
      title,
      target: [1.1, 0.7],
      ours: ["stream", image],
      theirs: ["qemu-img", "rebase", "-f", format, "-b", "", image],
      setUp: () => images.makeOverlay(template, format, source, populated),
      prepare: () => copyFileSync(template, image),
      verify: () => {
        const stands = !must("qemu-img", "info", "-f", format, image).includes("backing file");
        if (!stands) throw new Error(`'${image}' has a backing file still`);
        mustEqual(image, format, template, format);
      },
    };
  };

  const convert = (name: string, title: string, from: Source, to: string): OfflineRow => {
    const [source, image] = [images.path(from), images.path(`out.${to}`)];
    const format = from.endsWith(".raw") ? "raw" : "qcow2";
    return {
      name,
      title,
      target: [1.3, 1],
      ours: ["convert", "--source-format", format, "--format", to, source, image],
      // A cache mode in which the peer, too, ends with a flush.
      theirs: ["qemu-img", "convert", "-t", "writeback", "-f", format, "-O", to, source, image],
      setUp: () => images.makeSource(from),
      prepare: () => rmSync(image, { force: true }),
      verify: () => mustEqual(image, to, source, format),
    };
  };

  return { stream, convert };
}

function mustEqual(a: string, formatA: string, b: string, formatB: string): void {
  must("qemu-img", "compare", "-q", "-f", formatA, "-F", formatB, a, b);
}
