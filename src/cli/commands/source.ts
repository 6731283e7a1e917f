import type { Command } from "commander";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { limitsTable, sourcesTable } from "../disk-lines.ts";
import { helpAfter } from "../help.ts";
import { jsonOption } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { placeForDaemon } from "../targets.ts";
import { parseRate } from "../units.ts";

export function define(command: Command): void {
  command.addHelpText(
    "after",
    helpAfter(["streamdisk source ls --json | jq '.[].uri'", "streamdisk source limit nbd://images.example/ 50M"]),
  );
  subcommand(
    command,
    "ls",
    "list where disks come from, and which of them still need it",
    "streamdisk source ls",
  ).action(async (flags: DaemonFlags) => {
    await withDaemon(flags, async (client) => {
      const { sources } = await client.call("listSources", {});
      if (flags.json) printJson(sources);
      else printLines(...sourcesTable(sources));
    });
  });
  subcommand(
    command,
    "limit",
    "show or change how fast streams may be together; guests' reads are never limited",
    "streamdisk source limit",
    "streamdisk source limit all 100M",
    "streamdisk source limit each 50M",
    "streamdisk source limit nbd://images.example/ max",
  )
    .argument("[place]", "'all' streams, 'each' source by itself, a path, or the beginning of a URI")
    .argument("[rate]", "bytes a second; 'max' for no limit, 'default' for what the settings say", parseLimit)
    .action(setLimit);
}

function subcommand(parent: Command, name: string, summary: string, ...examples: string[]): Command {
  const made = parent.command(name).description(`${summary}.`).summary(summary);
  return jsonOption(daemonOptions(made)).addHelpText("after", helpAfter(examples));
}

async function setLimit(
  place: string | undefined,
  rate: { readonly speed?: number | null } | undefined,
  flags: DaemonFlags,
): Promise<void> {
  await withDaemon(flags, async (client) => {
    const { limits } =
      place === undefined || rate === undefined
        ? await client.call("listLimits", {})
        : await client.call("setLimit", { body: { place: placeOf(place), ...rate } });
    if (flags.json) printJson(limits);
    else printLines(...limitsTable(limits));
  });
}

function placeOf(place: string): string {
  return place === "all" || place === "each" ? place : placeForDaemon(place);
}

function parseLimit(text: string): { readonly speed?: number | null } {
  if (text === "default") return {};
  return { speed: text === "max" ? null : parseRate(text) };
}
