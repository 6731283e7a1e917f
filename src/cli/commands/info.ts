import type { Command } from "commander";
import type { SnapshotDetails } from "../../formats/index.ts";
import { type ImageInfo, imageChainInfo, imageInfo } from "../../image/index.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { helpAfter } from "../help.ts";
import { type ImageFlags, imageOptions, openedAs, refuseFileFlags } from "../options.ts";
import { columns, printJson, printLines, printWarnings, sizeWithBytes } from "../output.ts";
import { imageReference, parseTarget } from "../targets.ts";
import { formatSize } from "../units.ts";

interface Flags extends ImageFlags, DaemonFlags {
  readonly chain?: boolean;
}

export function define(command: Command): void {
  command
    .argument("<image>", "the image, a disk of the daemon, or a domain's disk")
    .option("--chain", "describe every image of the backing chain too");
  daemonOptions(imageOptions(command))
    .addHelpText(
      "after",
      helpAfter(["streamdisk info vm1.qcow2", "streamdisk info vm1.qcow2 --chain --json", "streamdisk info vm1"]),
    )
    .action(async (image: string, flags: Flags) => {
      const target = parseTarget(image);
      if (target.kind === "disk") {
        refuseFileFlags(target.name, flags);
        return (await import("../disk-show.ts")).showDisk(target.name, flags);
      }
      if (target.kind === "domain") {
        refuseFileFlags(image, flags);
        return (await import("../domain-show.ts")).showDomainDisk(target.domain, target.device, flags);
      }
      const path = imageReference(image);
      const options = openedAs(flags);
      const infos = flags.chain ? await imageChainInfo(path, options) : [await imageInfo(path, options)];
      printWarnings(infos.flatMap((info) => info.warnings));
      if (flags.json) printJson(flags.chain ? infos : infos[0]);
      else printLines(...infos.flatMap((info, index) => (index === 0 ? infoLines(info) : ["", ...infoLines(info)])));
    });
}

/** What qemu-img says, in its order, and what is local. */
function infoLines(info: ImageInfo): string[] {
  const missing = info["missing-bytes"];
  const lines = [
    `image: ${info.filename}`,
    `file format: ${info.format}`,
    `virtual size: ${sizeWithBytes(info["virtual-size"])}`,
    `disk size: ${info["actual-size"] === undefined ? "unavailable" : formatSize(info["actual-size"])}`,
    `local: ${sizeWithBytes(info["local-bytes"])}`,
    `zero: ${sizeWithBytes(info["zero-bytes"])}`,
    `missing: ${missing === undefined ? "unknown, the backing file cannot be read" : sizeWithBytes(missing)}`,
  ];
  if (info["dirty-flag"]) lines.push("cleanly shut down: no");
  if (info["cluster-size"] !== undefined) lines.push(`cluster_size: ${info["cluster-size"]}`);
  const backing = info["backing-filename"];
  if (backing !== undefined) {
    const full = info["full-backing-filename"];
    lines.push(`backing file: ${backing}${full === undefined || full === backing ? "" : ` (actual path: ${full})`}`);
  }
  const backingFormat = info["backing-filename-format"];
  if (backingFormat !== undefined) lines.push(`backing file format: ${backingFormat}`);
  if (info.snapshots !== undefined && info.snapshots.length > 0) lines.push(...snapshotLines(info.snapshots));
  const specific = Object.entries(info["format-specific"]?.data ?? {});
  if (specific.length > 0) lines.push("Format specific information:");
  for (const [name, value] of specific) lines.push(`    ${name.replaceAll("-", " ")}: ${plain(value)}`);
  return lines;
}

function snapshotLines(snapshots: readonly SnapshotDetails[]): string[] {
  const rows = snapshots.map((snapshot) => [
    snapshot.id,
    snapshot.name,
    formatSize(snapshot["vm-state-size"]),
    new Date(snapshot["date-sec"] * 1000).toISOString().replace("T", " ").slice(0, 19),
  ]);
  return ["Snapshot list:", ...columns([["ID", "TAG", "VM SIZE", "DATE (UTC)"], ...rows])];
}

function plain(value: unknown): string {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
