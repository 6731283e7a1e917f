import { tmpdir } from "node:os";
import type { Command } from "commander";
import { StreamdiskError } from "../../errors/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { inOwnDirectory } from "../demo/own-directory.ts";
import { Demo, type OverlayFormat } from "../demo/story.ts";
import { untilQuit } from "../demo/until-quit.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { jsonOption, parseFormat } from "../options.ts";
import { printJson, printLines } from "../output.ts";

interface Flags {
  readonly format: FormatName;
  readonly dir: string;
  readonly once?: boolean;
  readonly keep?: boolean;
  readonly json?: boolean;
}

/** The demo ran, and something was not as it must be. */
const EXIT_FAILED = 1;

export function define(command: Command): void {
  command
    .option("-f, --format <format>", "format of the disk's image: qcow2 or qed", parseFormat, "qcow2")
    .option("--dir <directory>", "where the demo makes its own directory", tmpdir())
    .option("--once", "end with the verdict also on a terminal, where it stays to be looked at until q or Ctrl-C")
    .option("--keep", "keep that directory");
  jsonOption(command)
    .addHelpText(
      "after",
      helpAfter(["streamdisk demo", "streamdisk demo --once --format qed --keep"], {
        0: "every byte is right",
        [EXIT_FAILED]: "the demo failed: the last line says how",
      }),
    )
    .action(async (flags: Flags) => {
      const { format } = flags;
      if (format === "raw") {
        throw new StreamdiskError("invalid-argument", "A raw image has no backing file; use --format qcow2 or qed");
      }
      await inOwnDirectory(flags.dir, flags.keep === true, (directory) =>
        interruptible((signal) => show(directory, { ...flags, format }, signal)),
      );
    });
}

async function show(directory: string, flags: Flags & { format: OverlayFormat }, signal: AbortSignal): Promise<void> {
  await using demo = new Demo(directory, flags.format, !flags.json, signal);
  const result = await demo.run();
  if (flags.json) printJson(result);
  if (result.failure !== undefined) {
    process.stderr.write(`streamdisk: The demo failed: ${result.failure}\n`);
    process.exitCode = EXIT_FAILED;
  } else if (!flags.once && !flags.json && process.stdin.isTTY && process.stdout.isTTY) {
    printLines("", ...(await demo.reopen()), "q or Ctrl-C ends it.");
    await untilQuit(signal);
  }
}
