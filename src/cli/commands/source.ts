import { Argument, type Command } from "commander";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { sourcesTable } from "../disk-lines.ts";
import { helpAfter } from "../help.ts";
import { jsonOption } from "../options.ts";
import { printJson, printLines } from "../output.ts";

export function define(command: Command): void {
  command.addArgument(
    new Argument("<what>", "ls: where disks come from, and which of them still need it").choices(["ls"]),
  );
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter(["streamdisk source ls"]))
    .action(async (_what: string, flags: DaemonFlags) => {
      await withDaemon(flags, async (client) => {
        const { sources } = await client.call("listSources", {});
        if (flags.json) printJson(sources);
        else printLines(...sourcesTable(sources));
      });
    });
}
