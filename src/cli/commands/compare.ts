import type { Command } from "commander";
import type { FormatName } from "../../formats/index.ts";
import { compareImages } from "../../image/index.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import {
  allowBackingOption,
  allowed,
  type ImageFlags,
  jsonOption,
  parseFormat,
  sourceOptions,
  told,
} from "../options.ts";
import { printJson, printLines, printWarnings } from "../output.ts";
import { ProgressMeter, progressOption } from "../progress.ts";
import { imageReference } from "../targets.ts";

interface Flags extends ImageFlags {
  readonly formatA?: FormatName;
  readonly formatB?: FormatName;
  readonly strict?: boolean;
  readonly progress?: boolean;
}

/** qemu-img's exit code of `compare`. */
const EXIT_DIFFERENT = 1;

export function define(command: Command): void {
  command
    .argument("<image-a>", "one image")
    .argument("<image-b>", "the other image")
    .option("-f, --format-a <format>", "format of the first image: it is believed, not probed", parseFormat)
    .option("-F, --format-b <format>", "format of the second image", parseFormat)
    .option("-s, --strict", "the sizes must be equal too; otherwise a longer tail has to be zeroes");
  progressOption(jsonOption(sourceOptions(allowBackingOption(command))))
    .addHelpText(
      "after",
      helpAfter(
        ["streamdisk compare vm1.qcow2 copy.raw", "streamdisk compare a.img b.img --format-a raw --format-b raw"],
        {
          0: "both read the same",
          [EXIT_DIFFERENT]: "they differ",
        },
      ),
    )
    .action(async (imageA: string, imageB: string, flags: Flags) => {
      const a = imageReference(imageA);
      const b = imageReference(imageB);
      const meter = new ProgressMeter(flags.progress);
      const result = await interruptible((signal) =>
        compareImages(a, b, {
          formatA: flags.formatA,
          formatB: flags.formatB,
          allowBacking: allowed(flags, a, b),
          sourceOptions: told(flags),
          strict: flags.strict,
          signal,
          onProgress: (fraction) => meter.update({ fraction }),
        }),
      ).finally(() => meter.clear());
      printWarnings(result.warnings);
      const { difference } = result;
      if (flags.json) {
        printJson({
          filename: a,
          "other-filename": b,
          identical: result.identical,
          ...(difference === undefined ? {} : { difference: difference.kind, offset: difference.offset }),
          "virtual-size": result.lengthA,
          "other-virtual-size": result.lengthB,
        });
      } else if (difference === undefined) printLines("Images are identical.");
      else if (difference.kind === "size")
        printLines(`Image sizes differ: ${result.lengthA} and ${result.lengthB} bytes`);
      else printLines(`Content mismatch at offset ${difference.offset}`);
      if (!result.identical) process.exitCode = EXIT_DIFFERENT;
    });
}
