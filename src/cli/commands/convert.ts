import type { Command } from "commander";
import type { FormatName } from "../../formats/index.ts";
import { convertImage } from "../../image/index.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import {
  allowBackingOption,
  allowed,
  type ImageFlags,
  jsonOption,
  moreFormatOptions,
  newFormat,
  parseFormat,
  sourceOptions,
  told,
} from "../options.ts";
import { printJson, printLines, printWarnings, sizeWithBytes } from "../output.ts";
import { ProgressMeter, progressOption } from "../progress.ts";
import { filePath, imageReference } from "../targets.ts";
import { formatSize } from "../units.ts";

interface Flags extends ImageFlags {
  readonly sourceFormat?: FormatName;
  readonly option?: Readonly<Record<string, string>>;
  readonly detectZeroes: boolean;
  readonly force?: boolean;
  readonly progress?: boolean;
}

export function define(command: Command): void {
  command
    .argument("<source>", "the image to read, with all that lies below it")
    .argument("<destination>", "the new image; it stands alone")
    .option("-O, --format <format>", "format of the new image; without it, the extension of its name", parseFormat)
    .option("-f, --source-format <format>", "format of the source: it is believed, not probed", parseFormat)
    .option("-o, --option <list>", "name=value,... as after qemu-img convert -o (repeatable)", moreFormatOptions)
    .option("--no-detect-zeroes", "write data that is zero throughout as data")
    .option("--force", "overwrite a destination that is there");
  progressOption(jsonOption(sourceOptions(allowBackingOption(command))))
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk convert vm1.qcow2 vm1.raw",
        "streamdisk convert disk.img vm1.qcow2 --source-format raw -o cluster_size=2M",
      ]),
    )
    .action(async (source: string, destination: string, flags: Flags) => {
      const from = imageReference(source);
      const to = filePath(destination);
      const format = newFormat(to, flags.format);
      const meter = new ProgressMeter(flags.progress);
      const result = await interruptible((signal) =>
        convertImage(from, to, {
          format,
          sourceFormat: flags.sourceFormat,
          allowBacking: allowed(flags),
          sourceOptions: told(flags),
          options: flags.option,
          detectZeroes: flags.detectZeroes,
          force: flags.force,
          signal,
          onProgress: ({ copiedBytes, dataBytes }) => meter.update({ done: copiedBytes, total: dataBytes }),
        }),
      ).finally(() => meter.clear());
      printWarnings(result.warnings);
      if (flags.json) {
        printJson({ filename: to, format, "virtual-size": result.size, "copied-bytes": result.copiedBytes });
      } else {
        printLines(
          `Wrote '${to}', ${format}, ${sizeWithBytes(result.size)}: ${formatSize(result.copiedBytes)} of data`,
        );
      }
    });
}
