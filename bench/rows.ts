/** What is measured: each row does one thing with streamdisk and with a peer, to the same files. */
import { copyFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must } from "./child.ts";
import { type Filling, makeOverlay, makeRaw } from "./images.ts";

export interface Row {
  readonly name: string;
  readonly title: string;
  /** Wall-clock time as a part of the peer's: what must be reached, and what would be fine. */
  readonly target: number;
  readonly stretch: number;
  /** Arguments of streamdisk. */
  readonly ours: readonly string[];
  /** The peer's command. */
  readonly theirs: readonly string[];
  /** Makes what all runs read. */
  readonly setUp: () => void;
  /** Puts the files in place for one run. */
  readonly prepare: () => void;
  /** Throws unless the run did what it should. */
  readonly verify: () => void;
}

const MIB = 2 ** 20;

/** @param size virtual size of the images, in MiB */
export function offlineRows(directory: string, size: number): Row[] {
  const at = (name: string): string => join(directory, name);
  const raw = (name: string, filling?: Filling, rest?: "holes" | "zeroes") => (): void =>
    makeRaw(at(name), size * MIB, filling, rest);

  const stream = (name: string, title: string, format: string, options: StreamOptions): Row => {
    const { base, baseFormat = "raw", setUp, populated = false } = options;
    const [template, image] = [at(`template.${format}`), at(`vm.${format}`)];
    return {
      name,
      title,
      target: 1.1,
      stretch: 0.7,
      ours: ["stream", image],
      theirs: ["qemu-img", "rebase", "-f", format, "-b", "", image],
      setUp: () => {
        setUp();
        makeOverlay(template, format, at(base), baseFormat, populated ? size : 0);
      },
      prepare: () => copyFileSync(template, image),
      verify: () => {
        if (must("qemu-img", "info", "-f", format, image).includes("backing file"))
          throw new Error(`${image} is no stream's end`);
        mustEqual(image, format, template, format);
      },
    };
  };

  const convert = (name: string, from: string, format: string, to: string, more: ConvertOptions): Row => {
    const [source, image] = [at(from), at(`out.${to}`)];
    return {
      name,
      title: `convert ${more.title ?? format} to ${to}`,
      target: 1.3,
      stretch: 1,
      ours: ["convert", "--source-format", format, "--format", to, source, image],
      // A cache mode in which the peer, too, ends with a flush.
      theirs: ["qemu-img", "convert", "-t", "writeback", "-f", format, "-O", to, source, image],
      setUp: more.setUp,
      prepare: () => rmSync(image, { force: true }),
      verify: () => mustEqual(image, to, source, format),
    };
  };

  const qcow2 = (): void => {
    raw("holes.raw")();
    must("qemu-img", "convert", "-f", "raw", "-O", "qcow2", at("holes.raw"), at("holes.qcow2"));
  };
  const compressed = (): void => {
    makeRaw(at("text.raw"), (size / 4) * MIB, "compressible");
    must("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", at("text.raw"), at("text.qcow2"));
  };

  return [
    stream("stream-qcow2", "stream qcow2 over raw", "qcow2", { base: "holes.raw", setUp: raw("holes.raw") }),
    stream("stream-qed", "stream QED over raw", "qed", { base: "holes.raw", setUp: raw("holes.raw") }),
    stream("stream-half", "stream qcow2 over raw, half local", "qcow2", {
      base: "holes.raw",
      setUp: raw("holes.raw"),
      populated: true,
    }),
    stream("stream-chain", "stream qcow2 over qcow2", "qcow2", {
      base: "holes.qcow2",
      baseFormat: "qcow2",
      setUp: qcow2,
    }),
    stream("stream-zeroes", "stream qcow2 over raw, zeroes for holes", "qcow2", {
      base: "zeroes.raw",
      setUp: raw("zeroes.raw", "random", "zeroes"),
    }),
    convert("convert-qcow2", "holes.raw", "raw", "qcow2", { setUp: raw("holes.raw") }),
    convert("convert-raw", "holes.qcow2", "qcow2", "raw", { setUp: qcow2 }),
    convert("convert-again", "holes.qcow2", "qcow2", "qcow2", { setUp: qcow2 }),
    convert("convert-compressed", "text.qcow2", "qcow2", "raw", { title: "compressed qcow2", setUp: compressed }),
    {
      name: "compare",
      title: "compare raw with qcow2",
      target: 1.3,
      stretch: 1,
      ours: ["compare", at("holes.raw"), at("holes.qcow2")],
      theirs: ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", at("holes.raw"), at("holes.qcow2")],
      setUp: qcow2,
      prepare: () => {},
      verify: () => {},
    },
  ];
}

interface StreamOptions {
  readonly base: string;
  readonly baseFormat?: string;
  readonly setUp: () => void;
  /** Whether half of the overlay is local already. */
  readonly populated?: boolean;
}

interface ConvertOptions {
  readonly title?: string;
  readonly setUp: () => void;
}

function mustEqual(a: string, formatA: string, b: string, formatB: string): void {
  must("qemu-img", "compare", "-q", "-f", formatA, "-F", formatB, a, b);
}
