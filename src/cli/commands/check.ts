import type { Command } from "commander";
import { StreamdiskError } from "../../errors/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { checkImage, type ImageCheck } from "../../image/index.ts";
import { reportFailure } from "../failure.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { jsonOption, parseFormat, type SourceFlags, sourceOptions, told } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { ProgressMeter, progressOption } from "../progress.ts";
import { imageReference } from "../targets.ts";

interface Flags extends SourceFlags {
  readonly format?: FormatName;
  readonly repair?: "leaks";
  readonly json?: boolean;
  readonly progress?: boolean;
}

/** qemu-img's exit codes of `check`. */
const EXIT_INCOMPLETE = 1;
const EXIT_CORRUPTIONS = 2;
const EXIT_LEAKS = 3;
const EXIT_NO_CHECK = 63;

export function define(command: Command): void {
  command
    .argument("<image>", "the image; its backing file is not opened")
    .option("-f, --format <format>", "format of the image: it is believed, not probed", parseFormat)
    .option("-r, --repair <what>", "'leaks' gives leaked clusters back; nothing else is changed", parseRepair);
  progressOption(jsonOption(sourceOptions(command)))
    .addHelpText(
      "after",
      helpAfter(["streamdisk check vm1.qcow2", "streamdisk check vm1.qcow2 --repair leaks"], {
        0: "no errors (or all of them repaired)",
        [EXIT_INCOMPLETE]: "the check could not be completed",
        [EXIT_CORRUPTIONS]: "corruptions: data is lost or may be",
        [EXIT_LEAKS]: "leaked clusters: wasted space, no harm",
        [EXIT_NO_CHECK]: "the format has nothing to check (raw)",
      }),
    )
    .action(async (image: string, flags: Flags) => {
      const path = imageReference(image);
      const meter = new ProgressMeter(flags.progress);
      const onProgress = (fraction: number) => meter.update({ fraction });
      const { format, repair } = flags;
      const options = { format, repair, sourceOptions: told(flags), onProgress };
      let result: ImageCheck;
      try {
        result = await interruptible((signal) => checkImage(path, { ...options, signal }));
      } catch (error) {
        if (!hasNoCheck(error)) throw error;
        reportFailure(error);
        process.exitCode = EXIT_NO_CHECK;
        return;
      } finally {
        meter.clear();
      }
      if (flags.json) printJson(result);
      else printLines(...checkLines(result));
      process.exitCode = exitOf(result);
    });
}

/** qemu-img's words. */
function checkLines(result: ImageCheck): string[] {
  const lines: string[] = [...result.findings];
  if (lines.length > 0) lines.push("");
  if (result["leaks-fixed"] > 0) lines.push(`${result["leaks-fixed"]} leaked clusters were given back.`);
  const { corruptions, leaks } = result;
  const failed = result["check-errors"];
  if (corruptions + leaks + failed === 0) lines.push("No errors were found on the image.");
  if (corruptions > 0) {
    lines.push(`${corruptions} errors were found on the image.`);
    lines.push("Data may be corrupted, or further writes to the image may corrupt it.");
  }
  if (leaks > 0) {
    lines.push(`${leaks} leaked clusters were found on the image.`);
    lines.push("This means waste of disk space, but no harm to data.");
  }
  if (failed > 0) lines.push(`${failed} internal errors have occurred during the check.`);
  const total = result["total-clusters"];
  const used = result["allocated-clusters"];
  if (total > 0 && used > 0) {
    const share = (part: number, whole: number) => `${((part / whole) * 100).toFixed(2)}%`;
    lines.push(
      `${used}/${total} = ${share(used, total)} allocated, ` +
        `${share(result["fragmented-clusters"], used)} fragmented, ` +
        `${share(result["compressed-clusters"], used)} compressed clusters`,
    );
  }
  lines.push(`Image end offset: ${result["image-end-offset"]}`);
  return lines;
}

/** Not any feature that is not supported, but the check itself. */
function hasNoCheck(error: unknown): boolean {
  return error instanceof StreamdiskError && error.code === "unsupported" && error.context.operation === "check";
}

function exitOf(result: ImageCheck): number {
  if (result["check-errors"] > 0) return EXIT_INCOMPLETE;
  if (result.corruptions > 0) return EXIT_CORRUPTIONS;
  return result.leaks > 0 ? EXIT_LEAKS : 0;
}

function parseRepair(text: string): "leaks" {
  if (text === "leaks") return text;
  throw new StreamdiskError("invalid-argument", `'--repair ${text}' is not known; only leaks can be repaired`);
}
