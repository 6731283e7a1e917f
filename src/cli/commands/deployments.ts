import type { Command } from "commander";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { deploymentsTable } from "../deployment-lines.ts";
import { helpAfter } from "../help.ts";
import { jsonOption } from "../options.ts";
import { printJson, printLines } from "../output.ts";

export function define(command: Command): void {
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter(["streamdisk deployments", "streamdisk deployments --json | jq '.[].disk'"]))
    .action(async (flags: DaemonFlags) => {
      const { deployments } = await withDaemon(flags, (client) => client.call("listDeployments", {}));
      if (flags.json) printJson(deployments);
      else printLines(...deploymentsTable(deployments));
    });
}
