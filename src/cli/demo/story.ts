/**
 * The story of the product on images of its own: an overlay is filled, the stream is killed with -9 half-way, it goes on
 * where it was, the base is deleted, and every byte is verified against a model that no image took part in.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { FormatName } from "../../formats/index.ts";
import { checkImage, createImage, type ImageInfo, imageInfo, openImage } from "../../image/index.ts";
import type { StreamProgress } from "../../stream/index.ts";
import { printLines } from "../output.ts";
import { ProgressMeter } from "../progress.ts";
import { formatSize } from "../units.ts";
import { type ChildEnd, runStream } from "./child.ts";
import { DiskModel } from "./model.ts";
import { firstDifference, qemuImg, writeModel } from "./verify.ts";

const MEBIBYTES = 512;
const GUEST_WRITES = 300;
/** Bytes a second as an option's value: slow enough to be killed half-way and to be watched. */
const SPEED = "64M";
/** qemu-img's exit code for an image that has wasted space and no other fault. */
const EXIT_LEAKS = 3;

/** What the demo found, for `--json`. */
export interface DemoResult {
  readonly format: FormatName;
  readonly "virtual-size": number;
  /** Missing before, after the kill, and at the end. */
  readonly "missing-bytes": readonly number[];
  /** What the second stream fetched. */
  readonly "resumed-bytes": number;
  readonly "verified-bytes": number;
  readonly "qemu-img": "agrees" | "not installed";
  /** What was not as it must be, a sentence; absent when all was. */
  readonly failure?: string;
}

/** Something is not as it must be: the verdict, not an error of the demo. */
class Wrong extends Error {}

export class Demo {
  readonly #format: FormatName;
  readonly #say: (...lines: string[]) => void;
  readonly #isShown: boolean;
  readonly #signal: AbortSignal;
  readonly #model = new DiskModel(MEBIBYTES, GUEST_WRITES);
  readonly #base: string;
  readonly #overlay: string;
  readonly #directory: string;
  readonly #name: string;
  readonly #missing: number[] = [];
  #resumed = 0;
  #verified = 0;
  #qemu: DemoResult["qemu-img"] = "not installed";

  /** @param directory an empty one; all that the demo makes lies in it */
  constructor(directory: string, format: FormatName, isShown: boolean, signal: AbortSignal) {
    this.#directory = directory;
    this.#format = format;
    this.#isShown = isShown;
    this.#signal = signal;
    this.#say = isShown ? printLines : () => {};
    this.#base = join(directory, "base.raw");
    this.#name = `vm.${format}`;
    this.#overlay = join(directory, this.#name);
  }

  async run(): Promise<DemoResult> {
    let failure: string | undefined;
    try {
      this.#say("streamdisk demo: fill an overlay, kill the stream with -9 half-way, go on, verify every byte", "");
      await this.#make();
      await this.#streamAndKill();
      await this.#resume();
      await this.#verify();
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      failure = error.message;
    }
    return {
      format: this.#format,
      "virtual-size": this.#model.length,
      "missing-bytes": this.#missing,
      "resumed-bytes": this.#resumed,
      "verified-bytes": this.#verified,
      "qemu-img": this.#qemu,
      failure,
    };
  }

  async #make(): Promise<void> {
    const { length, pieceBytes, writes } = this.#model;
    this.#say(
      `1  A base image of ${formatSize(length)}, half of it holes, and an overlay that a guest has written to.`,
    );
    await createImage(this.#base, { format: "raw", size: length });
    {
      await using base = await openImage(this.#base, { format: "raw" });
      for (let offset = 0; offset < length; offset += pieceBytes) {
        this.#signal.throwIfAborted();
        const piece = this.#model.basePiece(offset);
        if (piece !== undefined) await base.node.write(offset, piece);
      }
    }
    await createImage(this.#overlay, { format: this.#format, backing: "base.raw", backingFormat: "raw" });
    {
      await using overlay = await openImage(this.#overlay, { format: this.#format });
      for (const write of writes) {
        this.#signal.throwIfAborted();
        if (write.seed === 0) await overlay.node.writeZeroes(write.offset, write.length);
        else await overlay.node.write(write.offset, this.#model.data(write));
      }
    }
    await this.#look();
  }

  async #streamAndKill(): Promise<void> {
    this.#say("", `2  streamdisk stream ${this.#name} --speed ${SPEED}`);
    const half = (this.#missing[0] ?? 0) / 2;
    const end = await this.#stream(({ missingBytes }) => missingBytes <= half);
    if (end.killedBy !== "SIGKILL") throw new Wrong(`the stream could not be killed half-way: ${ended(end)}`);
    const before = this.#missing[0] ?? 0;
    const arrived = before - (end.last?.missingBytes ?? before);
    this.#say(`   Killed with -9 after ${formatSize(arrived)}: nobody had a chance to tidy up. In the image now:`);
    await this.#look();
    const kept = before - (this.#missing[1] ?? before);
    this.#say(
      kept < arrived ? `   ${formatSize(kept)} of that were recorded by then and are kept.` : "   All of that is kept.",
    );
    const check = await checkImage(this.#overlay, { format: this.#format, signal: this.#signal });
    if (check.corruptions + check["check-errors"] > 0) {
      throw new Wrong(
        `after kill -9 the image has ${check.corruptions} corruptions: ${check.findings[0] ?? "no finding"}`,
      );
    }
    this.#say(`   check: no errors${check.leaks === 0 ? "" : `, ${check.leaks} clusters of wasted space`}`);
  }

  async #resume(): Promise<void> {
    this.#say("", `3  streamdisk stream ${this.#name} --speed ${SPEED}, the same again`);
    const end = await this.#stream();
    if (end.exit !== 0) throw new Wrong(`the second stream did not complete: ${ended(end)}`);
    this.#resumed = end.last?.copiedBytes ?? 0;
    this.#say(`   It went on where it was: ${formatSize(this.#resumed)} fetched, the rest was there.`);
    const info = await this.#look();
    const backing = info["backing-filename"];
    if (backing !== undefined) throw new Wrong(`the image still names its backing file '${backing}'`);
  }

  async #verify(): Promise<void> {
    this.#say("", `4  base.raw is deleted: ${this.#name} has to stand alone.`);
    await rm(this.#base);
    const different = await firstDifference(this.#overlay, this.#format, this.#model, this.#signal);
    if (different !== undefined) throw new Wrong(`byte ${different} of the image is not what was written`);
    this.#verified = this.#model.length;
    this.#say(`   ${formatSize(this.#verified)} read back: every byte is what the base held or the guest wrote.`);
    await this.#askQemu();
    this.#say("", "All is as it must be: the disk is complete and right, although its stream was killed on the way.");
  }

  async #askQemu(): Promise<void> {
    const check = await qemuImg(["check", "-f", this.#format, this.#overlay], this.#signal);
    if (check === undefined) {
      this.#say("   qemu-img is not installed, so it was not asked.");
      return;
    }
    const isLeaky = check.exit === EXIT_LEAKS;
    if (check.exit !== 0 && !isLeaky) throw new Wrong(`qemu-img check says: ${check.said}`);
    this.#say(`   qemu-img check: ${check.said}${isLeaky ? " That is space which the kill wasted, no harm." : ""}`);

    const expected = join(this.#directory, "expected.raw");
    await writeModel(expected, this.#model, this.#signal);
    const images = ["-f", this.#format, "-F", "raw", this.#overlay, expected];
    const compare = await qemuImg(["compare", ...images], this.#signal);
    if (compare?.exit !== 0) throw new Wrong(`qemu-img compare says: ${compare?.said}`);
    this.#say(`   qemu-img compare: ${compare.said}`);
    this.#qemu = "agrees";
  }

  /** Says how much of the overlay is local. */
  async #look(): Promise<ImageInfo> {
    const info = await imageInfo(this.#overlay, { format: this.#format });
    const missing = info["missing-bytes"];
    if (missing === undefined) throw new Wrong(`what is missing cannot be told: ${info.warnings.join("; ")}`);
    this.#missing.push(missing);
    const parts = [`${formatSize(info["local-bytes"])} local`, `${formatSize(info["zero-bytes"])} zero`];
    this.#say(`   ${this.#name}: ${parts.join(", ")}, ${missing === 0 ? "nothing" : formatSize(missing)} missing`);
    return info;
  }

  async #stream(killAt?: (progress: StreamProgress) => boolean): Promise<ChildEnd> {
    const meter = new ProgressMeter(this.#isShown, process.stdout, "   ");
    const total = this.#missing[0] ?? 0;
    const show = ({ missingBytes, rate, eta }: StreamProgress) => {
      meter.update({ done: total - missingBytes, total, rate, eta });
    };
    const args = [this.#overlay, "--format", this.#format, "--speed", SPEED];
    try {
      return await runStream(args, show, this.#signal, killAt);
    } finally {
      meter.finish();
      this.#signal.throwIfAborted();
    }
  }
}

function ended({ exit, killedBy, said }: ChildEnd): string {
  return `it ended with ${killedBy ?? `exit code ${exit}`}${said === "" ? "" : ` and said '${said}'`}`;
}
