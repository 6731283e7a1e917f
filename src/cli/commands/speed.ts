import type { Command } from "commander";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { helpAfter } from "../help.ts";
import { showJob } from "../job-command.ts";
import { jsonOption } from "../options.ts";
import { diskName } from "../targets.ts";
import { parseRate } from "../units.ts";

export function define(command: Command): void {
  command
    .argument("<disk>", "the disk of the daemon")
    .argument("<rate>", "bytes a second at most, for example 50M; 'max' for no limit", parseSpeed);
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter(["streamdisk speed vm1 50M", "streamdisk speed vm1 max"]))
    .action(async (name: string, speed: number | null, flags: DaemonFlags) => {
      await withDaemon(flags, async (client) => {
        showJob(await client.call("setSpeed", { params: { disk: diskName(name) }, body: { speed } }), flags);
      });
    });
}

function parseSpeed(text: string): number | null {
  return text === "max" ? null : parseRate(text);
}
