import type { Command } from "commander";
import { type ImageOptions, imageChainInfo, imageMap, type MapEntry } from "../../image/index.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { helpAfter } from "../help.ts";
import { type ImageFlags, imageOptions, openedAs, refuseFileFlags } from "../options.ts";
import { printLines, printWarnings } from "../output.ts";
import { imageReference, parseTarget } from "../targets.ts";

export function define(command: Command): void {
  command.argument("<image>", "the image, a disk of the daemon, or a domain's disk");
  daemonOptions(imageOptions(command))
    .addHelpText("after", helpAfter(["streamdisk map vm1.qcow2", "streamdisk map vm1.qcow2 --json"]))
    .action(async (image: string, flags: ImageFlags & DaemonFlags) => {
      const target = parseTarget(image);
      if (target.kind === "disk" || target.kind === "domain") {
        refuseFileFlags(target.name, flags);
        return (await import("../disk-map.ts")).printDiskMap(target.name, flags);
      }
      const path = imageReference(image);
      const options = openedAs(flags);
      if (flags.json) await printMap(imageMap(path, options));
      else await printTable(path, options);
    });
}

/** One entry a line, as qemu-img prints them, however many there are. */
async function printMap(entries: AsyncIterable<MapEntry>): Promise<void> {
  let before = "[";
  for await (const entry of entries) {
    process.stdout.write(before + JSON.stringify(entry));
    before = ",\n";
  }
  process.stdout.write(before === "[" ? "[]\n" : "]\n");
}

async function printTable(path: string, options: ImageOptions): Promise<void> {
  const infos = await imageChainInfo(path, options);
  let isFirst = true;
  for await (const entry of imageMap(path, options)) {
    if (isFirst) printLines(row("Offset", "Length", "State", "Mapped to", "File"));
    isFirst = false;
    const state = entry.missing ? "missing" : entry.data ? "local" : "zero";
    const file = entry.data ? (infos[entry.depth]?.filename ?? `layer ${entry.depth}`) : "-";
    const host = entry.data && entry.offset !== undefined ? hex(entry.offset) : "-";
    printLines(row(hex(entry.start), hex(entry.length), state, host, file));
  }
  printWarnings(infos.flatMap((info) => info.warnings));
}

function row(offset: string, length: string, state: string, host: string, file: string): string {
  return `${offset.padEnd(16)}${length.padEnd(16)}${state.padEnd(9)}${host.padEnd(16)}${file}`;
}

function hex(value: number): string {
  return value === 0 ? "0" : `0x${value.toString(16)}`;
}
