import type { Command } from "commander";
import type { FormatName } from "../../formats/index.ts";
import { createImage } from "../../image/index.ts";
import { helpAfter } from "../help.ts";
import {
  jsonOption,
  moreFormatOptions,
  newFormat,
  parseFormat,
  type SourceFlags,
  sourceOptions,
  told,
} from "../options.ts";
import { printJson, printLines, printWarnings, sizeWithBytes } from "../output.ts";
import { filePath } from "../targets.ts";
import { parseSize } from "../units.ts";

interface Flags extends SourceFlags {
  readonly format?: FormatName;
  readonly backing?: string;
  readonly backingFormat?: FormatName;
  readonly option?: Readonly<Record<string, string>>;
  readonly force?: boolean;
  readonly json?: boolean;
}

export function define(command: Command): void {
  command
    .argument("<file>", "the new image")
    .argument("[size]", "virtual size, for example 20G; without it, that of the backing file", parseSize)
    .option("-f, --format <format>", "qcow2, qed or raw; without it, the extension of the file", parseFormat)
    .option("-b, --backing <reference>", "backing file: absolute, or relative to the directory of the new image")
    .option("-F, --backing-format <format>", "format of the backing file; without it, it is probed once", parseFormat)
    .option("-o, --option <list>", "name=value,... as after qemu-img create -o (repeatable)", moreFormatOptions)
    .option("--force", "overwrite a file that is there");
  jsonOption(sourceOptions(command))
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk create vm1.qcow2 20G",
        "streamdisk create vm1.qcow2 --backing /images/debian.qcow2 --backing-format qcow2",
        "streamdisk create vm1.qed 20G --backing base.raw --backing-format raw -o cluster_size=64K",
      ]),
    )
    .action(async (file: string, size: number | undefined, flags: Flags) => {
      const path = filePath(file);
      const made = await createImage(path, {
        format: newFormat(path, flags.format),
        size,
        backing: flags.backing,
        backingFormat: flags.backingFormat,
        options: flags.option,
        force: flags.force,
        sourceOptions: told(flags),
      });
      printWarnings(made.warnings);
      if (flags.json) {
        printJson({
          filename: made.path,
          format: made.format,
          "virtual-size": made.size,
          "backing-filename": made.backing,
          "backing-filename-format": made.backingFormat,
        });
        return;
      }
      const over =
        made.backing === undefined ? "" : ` over '${made.backing}' (${made.backingFormat ?? "format not said"})`;
      printLines(`Created '${made.path}', ${made.format}, ${sizeWithBytes(made.size)}${over}`);
    });
}
