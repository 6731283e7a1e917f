/** What is measured: each row does one thing with streamdisk and with a peer, to the same files. */
import { copyFileSync, rmSync } from "node:fs";
import { must } from "./child.ts";
import type { Images, Source } from "./images.ts";

export interface Row {
  readonly name: string;
  readonly title: string;
  /** Wall-clock time as a part of the peer's: what must be reached, and what would be fine. Absent: it is only told. */
  readonly target?: number;
  readonly stretch?: number;
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

export function offlineRows(images: Images): Row[] {
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
  const stream = (name: string, title: string, format: string, source: Source, populated = false): Row => {
    const [template, image] = [images.path(`template.${format}`), images.path(`vm.${format}`)];
    return {
      name,
      title,
      target: 1.1,
      stretch: 0.7,
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

  const convert = (name: string, title: string, from: Source, to: string): Row => {
    const [source, image] = [images.path(from), images.path(`out.${to}`)];
    const format = from.endsWith(".raw") ? "raw" : "qcow2";
    return {
      name,
      title,
      target: 1.3,
      stretch: 1,
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
