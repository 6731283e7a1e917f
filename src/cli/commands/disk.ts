import { type Command, Option } from "commander";
import type { SourcePolicy } from "../../filters/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { clientsTable } from "../client-lines.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { disksTable, policyInWords, wideTable } from "../disk-lines.ts";
import { allDisks } from "../disk-list.ts";
import { printDiskMap } from "../disk-map.ts";
import { DISK_TEXTS, type DiskText, showDisk, showDiskAs } from "../disk-show.ts";
import { helpAfter } from "../help.ts";
import { jsonOption, parseFormat } from "../options.ts";
import { printJson, printLines, printWarnings, sizeWithBytes } from "../output.ts";
import { parseSourcePolicy, sentPolicy } from "../source-policy.ts";
import { diskName, diskTarget, placeForDaemon } from "../targets.ts";
import { parseRate, parseSize } from "../units.ts";

interface CreateFlags extends DaemonFlags {
  readonly image?: string;
  readonly adopt?: string;
  readonly format?: FormatName;
  readonly size?: number;
  readonly backing?: string;
  readonly backingFormat?: FormatName;
  readonly readOnly?: boolean;
  readonly copyOnRead: boolean;
  readonly onSourceError?: SourcePolicy;
  readonly stream?: boolean;
  readonly speed?: number;
}

export function define(command: Command): void {
  command.addHelpText(
    "after",
    helpAfter([
      "streamdisk disk create vm1 --backing https://images.example/debian.qcow2 --stream",
      "streamdisk disk ls --json | jq '.[].name'",
    ]),
  );
  defineCreate(command);
  defineLists(command);
  defineChanges(command);
}

function subcommand(parent: Command, name: string, summary: string, ...examples: string[]): Command {
  const made = parent.command(name).description(`${summary}.`).summary(summary);
  return jsonOption(daemonOptions(made)).addHelpText("after", helpAfter(examples));
}

function defineCreate(parent: Command): void {
  subcommand(
    parent,
    "create",
    "make a disk over a source, or adopt an image, and serve it from then on",
    "streamdisk disk create vm1 --backing https://images.example/debian.qcow2 --stream",
    "streamdisk disk create vm2 --adopt ./vm2.qcow2 --on-source-error hold:1m,pause",
  )
    .argument("<name>", "what it shall be called")
    .option("--backing <ref>", "what lies below it: a path or a URI")
    .option("--backing-format <format>", "format of that; without it, its first bytes decide", parseFormat)
    .option("--size <size>", "virtual size; without it, that of the backing file", parseSize)
    .option("--image <path>", "where to make the file; without it NAME.FORMAT in the daemon's image directory")
    .option("--adopt <path>", "an image that is there already, which the daemon never deletes")
    .option(
      "-f, --format <format>",
      "format of the image; of a new one without it qcow2, or by its extension",
      parseFormat,
    )
    .option("-r, --read-only", "with --adopt: guests can only read")
    .option("--no-copy-on-read", "do not keep what guests read from the backing file")
    .option("--on-source-error <policy>", "what a read of a lost source gets: as for serve", parseSourcePolicy)
    .option("--stream", "fetch what is missing while guests run, then break the link to the backing file")
    .option("--speed <rate>", "with --stream: bytes a second at most, for example 50M", parseRate)
    .action(create);
}

async function create(name: string, flags: CreateFlags): Promise<void> {
  const { adopt, format, size, backing, backingFormat, readOnly, copyOnRead, onSourceError, speed } = flags;
  const image = adopt ?? flags.image;
  await withDaemon(flags, async (client) => {
    const disk = await client.call("createDisk", {
      body: {
        name: diskName(name),
        copyOnRead,
        adopt: adopt !== undefined,
        ...(image !== undefined && { image: placeForDaemon(image) }),
        ...(format !== undefined && { format }),
        ...(size !== undefined && { size }),
        ...(backing !== undefined && { backing: placeForDaemon(backing) }),
        ...(backingFormat !== undefined && { backingFormat }),
        ...(readOnly !== undefined && { readOnly }),
        ...(onSourceError !== undefined && { onSourceError: sentPolicy(onSourceError) }),
        ...((flags.stream || speed !== undefined) && { stream: speed === undefined ? true : { speed } }),
      },
    });
    printWarnings(disk.warnings);
    if (flags.json) printJson(disk);
    else printLines(`'${disk.name}' is served at ${disk.uri ?? "-"}`);
  });
}

function defineLists(parent: Command): void {
  subcommand(
    parent,
    "ls",
    "list the disks",
    "streamdisk disk ls --json",
    "streamdisk disk ls --wide --host images.example",
  )
    .option("--wide", "show what each disk depends on, how much it misses, and what becomes of it when that dies")
    .option("--host <host>", "only disks that depend on this host; 'this host' for files")
    .action(listDisks);
  subcommand(
    parent,
    "show",
    "show all of one disk, or what to give to a machine that shall have it",
    "streamdisk disk show vm1",
    "qemu-system-x86_64 -m 1G $(streamdisk disk show vm1 --as qemu)",
  )
    .argument("<disk>", "the disk")
    .addOption(new Option("--as <what>", "only what to paste").choices(DISK_TEXTS))
    .action(async (name: string, flags: DaemonFlags & { readonly as?: DiskText }) => {
      const disk = diskName(name);
      await (flags.as === undefined ? showDisk(disk, flags) : showDiskAs(disk, flags.as, flags));
    });
  subcommand(
    parent,
    "clients",
    "show who is connected to a disk, what each has asked for, and how long it waited",
    "streamdisk disk clients vm1",
  )
    .argument("<disk>", "the disk")
    .action(async (name: string, flags: DaemonFlags) => {
      const { clients } = await withDaemon(flags, (client) =>
        client.call("diskClients", { params: { disk: diskName(name) } }),
      );
      if (flags.json) printJson(clients);
      else printLines(...clientsTable(clients));
    });
  subcommand(parent, "map", "show where each range of a disk comes from", "streamdisk disk map vm1")
    .argument("<disk>", "the disk")
    .action((name: string, flags: DaemonFlags) => printDiskMap(diskName(name), flags));
}

async function listDisks(flags: DaemonFlags & { readonly wide?: boolean; readonly host?: string }): Promise<void> {
  const { json, wide = false, host } = flags;
  const filter = { wide, ...(host !== undefined && { host }) };
  const disks = await withDaemon(flags, (client) => allDisks(client, undefined, filter));
  if (json) printJson(disks);
  else if (host !== undefined && disks.length === 0) printLines(`No disk depends on '${host}'`);
  else printLines(...(wide ? wideTable(disks) : disksTable(disks)));
}

function defineChanges(parent: Command): void {
  subcommand(parent, "rm", "serve a disk no more; its file stays", "streamdisk disk rm vm1 --delete-file")
    .argument("<disk>", "the disk")
    .option("--delete-file", "delete its file too, which the daemon must have made")
    .action(async (name: string, flags: DaemonFlags & { readonly deleteFile?: boolean }) => {
      const disk = diskName(name);
      await withDaemon(flags, async (client) => {
        await client.call("deleteDisk", { params: { disk }, query: { deleteFile: flags.deleteFile ?? false } });
      });
      if (flags.json) printJson({ name: disk, "file-deleted": flags.deleteFile ?? false });
      else printLines(`'${disk}' is served no more; its file ${flags.deleteFile ? "is deleted" : "stays"}`);
    });
  subcommand(parent, "resize", "change the virtual size of a disk", "streamdisk disk resize vm1 20G")
    .argument("<disk>", "the disk")
    .argument("<size>", "the new virtual size", parseSize)
    .option("--shrink", "allow a smaller size: what lies beyond it is lost")
    .action(async (name: string, length: number, flags: DaemonFlags & { readonly shrink?: boolean }) => {
      await withDaemon(flags, async (client) => {
        const body = { length, shrink: flags.shrink ?? false };
        const disk = await client.call("resizeDisk", { params: { disk: diskName(name) }, body });
        if (flags.json) printJson(disk);
        else
          printLines(
            `'${disk.name}' has ${sizeWithBytes(disk.length ?? length)} now; guests see it when they connect again`,
          );
      });
    });
  subcommand(
    parent,
    "policy",
    "say what a read that needs a lost source gets, from now on",
    "streamdisk disk policy vm1 hold:30s,pause",
    "streamdisk disk policy web:vda hold",
  )
    .argument("<disk>", "the disk, or a domain's as DOMAIN:DEVICE, which is for what this daemon serves below it")
    .argument("<policy>", "hold, hold:30s,error, hold:30s,pause, pause, error", parseSourcePolicy)
    .action(async (name: string, policy: SourcePolicy, flags: DaemonFlags) => {
      const disk = diskName(name);
      await withDaemon(flags, async (client) => {
        const set = await client.call("setPolicy", { params: { disk }, body: sentPolicy(policy) });
        printWarnings(set.warnings);
        if (flags.json) printJson(set);
        else printLines(`'${disk}': ${policyInWords(set.onSourceError)}`);
      });
    });
  subcommand(
    parent,
    "replace-source",
    "name another place for what is missing, when the source has moved",
    "streamdisk disk replace-source vm1 https://new.example/debian.qcow2",
    "streamdisk disk replace-source web:vda nbd+unix:///debian?socket=/run/debian.sock",
  )
    .argument("<disk>", "the disk, or a running domain's as DOMAIN:DEVICE")
    .argument("<ref>", "the new place: a path or a URI")
    .option("--backing-format <format>", "format of what is there; without it, its first bytes decide", parseFormat)
    .option("--force", "also when it differs, or cannot be read")
    .action(replaceSource);
}

interface ReplaceFlags extends DaemonFlags {
  readonly backingFormat?: FormatName;
  readonly force?: boolean;
}

async function replaceSource(name: string, place: string, flags: ReplaceFlags): Promise<void> {
  const target = diskTarget(name);
  const { backingFormat, force = false } = flags;
  const body = { backing: placeForDaemon(place), force, ...(backingFormat !== undefined && { backingFormat }) };
  await withDaemon(flags, async (client) => {
    const disk = await (target.kind === "disk"
      ? client.call("replaceSource", { params: { disk: target.name }, body })
      : client.call("replaceDomainSource", { params: { domain: target.domain, device: target.device }, body }));
    printWarnings(disk.warnings);
    if (flags.json) printJson(disk);
    else printLines(`'${disk.name}' comes from '${disk.backing ?? "nowhere"}' now`);
  });
}
