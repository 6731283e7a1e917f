import { type Command, Option } from "commander";
import { StreamdiskError } from "../../errors/index.ts";
import { stepImage, streamImage } from "../../image/index.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { type ImageFlags, imageOptions, openedAs } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { progressOption } from "../progress.ts";
import { StreamReport } from "../stream-report.ts";
import { filePath } from "../targets.ts";
import { parseDuration, parseRate, parseSize } from "../units.ts";

interface Flags extends ImageFlags {
  readonly base?: string;
  readonly speed?: number;
  readonly window?: number;
  readonly detectZeroes: boolean;
  readonly retryFor?: number;
  readonly step?: boolean;
  readonly offset?: number;
  readonly length?: number;
  readonly progress?: boolean;
}

/** `--step`: nothing is missing any more. */
const EXIT_STEPS_DONE = 10;

export function define(command: Command): void {
  command
    .argument("<image>", "the overlay to fill; it stands alone afterwards")
    .option("--base <file>", "image of the chain that stays the backing file")
    .option("--speed <rate>", "bytes a second at most, for example 50M", parseRate)
    .option("--window <size>", "bytes under way at once; without it, adapted between 1M and 32M", parseSize)
    .option("--no-detect-zeroes", "keep copied data that is zero throughout as data")
    .option("--retry-for <duration>", "wait this long for a lost source or a full disk, for example 5m", parseDuration)
    .addOption(
      new Option("--step", "one increment only; prints the first byte that was not examined").conflicts([
        "speed",
        "window",
        "retryFor",
      ]),
    )
    .option("--offset <size>", "with --step: where to look; without it, at the first missing range", parseSize)
    .option("--length <size>", "with --step: bytes to copy at most; without it, 1M", parseSize);
  progressOption(imageOptions(command))
    .addHelpText(
      "after",
      helpAfter(
        [
          "streamdisk stream vm1.qcow2",
          "streamdisk stream vm1.qcow2 --speed 50M --base /images/debian.qcow2",
          "while streamdisk stream vm1.qcow2 --step --length 64M; do sleep 1; done",
        ],
        {
          0: "the image stands alone (--step: there is more)",
          [EXIT_STEPS_DONE]: "--step: nothing is missing any more, the image stands alone",
        },
      ),
    )
    .action(async (image: string, flags: Flags) => {
      if (!flags.step && (flags.offset !== undefined || flags.length !== undefined)) {
        throw new StreamdiskError("invalid-argument", "Options '--offset' and '--length' need '--step'");
      }
      const path = filePath(image);
      if (flags.step) await step(path, flags);
      else await stream(path, flags);
    });
}

async function stream(path: string, flags: Flags): Promise<void> {
  const report = new StreamReport(path, flags);
  try {
    await interruptible(async (signal) => {
      const { base, speed, window, detectZeroes, retryFor } = flags;
      const options = { ...openedAs(flags), base, speed, window, detectZeroes, retryFor, signal };
      for await (const progress of streamImage(path, options)) report.update(progress);
    });
  } catch (error) {
    throw report.stopped(error);
  }
  report.completed();
}

async function step(path: string, flags: Flags): Promise<void> {
  const { base, offset, length, detectZeroes } = flags;
  const result = await interruptible((signal) =>
    stepImage(path, { ...openedAs(flags), base, offset, length, detectZeroes, signal }),
  );
  if (flags.json) printJson(result);
  else printLines(String(result.next));
  if (result.done) process.exitCode = EXIT_STEPS_DONE;
}
