import type { Command } from "commander";
import type { FormatName } from "../../formats/index.ts";
import { rebaseImage } from "../../image/index.ts";
import { helpAfter } from "../help.ts";
import { type ImageFlags, imageOptions, openedAs, parseFormat } from "../options.ts";
import { printJson, printLines, printWarnings } from "../output.ts";
import { filePath } from "../targets.ts";
import { formatSize } from "../units.ts";

interface Flags extends ImageFlags {
  readonly backing: string;
  readonly backingFormat?: FormatName;
  readonly force?: boolean;
}

export function define(command: Command): void {
  command
    .argument("<image>", "the overlay; only its reference is changed, no data is copied")
    .requiredOption("-b, --backing <reference>", "the new backing file; '' for none")
    .option(
      "-F, --backing-format <format>",
      "format of the new backing file; without it, it is probed once",
      parseFormat,
    )
    .option("--force", "write a reference that cannot be right, or whose file cannot be read");
  imageOptions(command)
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk rebase vm1.qcow2 --backing /new/place/debian.qcow2 --backing-format qcow2",
        "streamdisk rebase vm1.qcow2 --backing base.raw --backing-format raw --force",
      ]),
    )
    .action(async (image: string, flags: Flags) => {
      const path = filePath(image);
      const result = await rebaseImage(path, {
        ...openedAs(flags),
        backing: flags.backing === "" ? undefined : flags.backing,
        backingFormat: flags.backingFormat,
        force: flags.force,
      });
      printWarnings(result.warnings);
      if (flags.json) {
        printJson({
          filename: path,
          "backing-filename": result.to,
          "previous-backing-filename": result.from,
          "compared-bytes": result.compared,
        });
        return;
      }
      const compared = result.compared === 0 ? "nothing was compared" : `${formatSize(result.compared)} compared equal`;
      printLines(`The backing file of '${path}' is now ${named(result.to)}, it was ${named(result.from)}; ${compared}`);
    });
}

function named(reference: string | undefined): string {
  return reference === undefined ? "none" : `'${reference}'`;
}
