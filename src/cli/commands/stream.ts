import { type Command, Option } from "commander";
import { StreamdiskError } from "../../errors/index.ts";
import { stepImage, streamImage } from "../../image/index.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { type ImageFlags, imageOptions, openedAs, refuseFileFlags } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { progressOption } from "../progress.ts";
import { StreamReport } from "../stream-report.ts";
import { filePath, parseTarget } from "../targets.ts";
import { parseDuration, parseRate, parseSize } from "../units.ts";

interface Flags extends ImageFlags, DaemonFlags {
  readonly detach?: boolean;
  readonly priority?: number;
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
    .argument(
      "<image>",
      "the overlay to fill, a disk of the daemon, or a domain's disk; without --base it stands alone afterwards",
    )
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
  command
    .option("--detach", "of a disk of the daemon: start it and return")
    .option(
      "--priority <number>",
      "of a disk of the daemon: the higher one goes first, from -100 to 100",
      parsePriority,
    );
  progressOption(daemonOptions(imageOptions(command)))
    .addHelpText(
      "after",
      helpAfter(
        [
          "streamdisk stream vm1.qcow2",
          "streamdisk stream vm1.qcow2 --speed 50M --base /images/debian.qcow2",
          "streamdisk stream vm1 --detach",
          "streamdisk stream web:vda --speed 50M",
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
      const target = parseTarget(image);
      if (target.kind === "disk" || target.kind === "domain") return streamOfDaemon(target.name, flags);
      const path = filePath(image);
      for (const [name, option] of OF_DAEMON) {
        if (flags[name] !== undefined)
          throw new StreamdiskError("invalid-argument", `Option '${option}' is for disks of the daemon`);
      }
      if (flags.step) await step(path, flags);
      else await stream(path, flags);
    });
}

const OF_DAEMON = [
  ["detach", "--detach"],
  ["priority", "--priority"],
  ["daemon", "--daemon"],
] as const;

async function streamOfDaemon(disk: string, flags: Flags): Promise<void> {
  refuseFileFlags(disk, flags);
  if (flags.step && flags.base !== undefined) {
    throw new StreamdiskError(
      "invalid-argument",
      `'${disk}' is a disk of the daemon: its steps go down to no '--base'`,
    );
  }
  const { stepDisk, streamDisk } = await import("../disk-stream.ts");
  if (!flags.step) await streamDisk(disk, flags);
  else if (await stepDisk(disk, flags)) process.exitCode = EXIT_STEPS_DONE;
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

function parsePriority(text: string): number {
  const priority = Number(text);
  if (/^-?\d{1,3}$/.test(text) && Math.abs(priority) <= 100) return priority;
  throw new StreamdiskError("invalid-argument", `'${text}' is not a priority: write a whole number from -100 to 100`);
}
