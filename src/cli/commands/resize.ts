import type { Command } from "commander";
import { StreamdiskError } from "../../errors/index.ts";
import { imageInfo, resizeImage } from "../../image/index.ts";
import { helpAfter } from "../help.ts";
import { type ImageFlags, imageOptions, openedAs } from "../options.ts";
import { printJson, printLines, printWarnings, sizeWithBytes } from "../output.ts";
import { filePath } from "../targets.ts";
import { parseSize } from "../units.ts";

interface Flags extends ImageFlags {
  readonly shrink?: boolean;
}

export function define(command: Command): void {
  command
    .argument("<image>", "the image")
    .argument("<size>", "the new virtual size; +SIZE adds to it, -SIZE takes off")
    .option("--shrink", "allow a smaller size: what lies beyond it is lost");
  imageOptions(command)
    .addHelpText("after", helpAfter(["streamdisk resize vm1.qcow2 +10G", "streamdisk resize vm1.qcow2 20G --shrink"]))
    .action(async (image: string, size: string, flags: Flags) => {
      const path = filePath(image);
      const wanted = await newSize(path, size, flags);
      const { from, to, warnings } = await resizeImage(path, wanted, { ...openedAs(flags), shrink: flags.shrink });
      printWarnings(warnings);
      if (flags.json) printJson({ filename: path, "virtual-size": to, "previous-virtual-size": from });
      else printLines(`Resized '${path}' from ${sizeWithBytes(from)} to ${sizeWithBytes(to)}`);
    });
}

async function newSize(path: string, text: string, flags: Flags): Promise<number> {
  const sign = text.charAt(0);
  if (sign !== "+" && sign !== "-") return parseSize(text);
  const change = parseSize(text.slice(1));
  const before = (await imageInfo(path, openedAs(flags)))["virtual-size"];
  const wanted = sign === "+" ? before + change : before - change;
  if (wanted >= 0 && Number.isSafeInteger(wanted)) return wanted;
  throw new StreamdiskError("invalid-argument", `'${text}' cannot be: the image '${path}' has ${before} bytes`);
}
