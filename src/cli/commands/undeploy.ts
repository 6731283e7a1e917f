import type { Command } from "commander";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { helpAfter } from "../help.ts";
import { jsonOption } from "../options.ts";
import { printJson, printLines } from "../output.ts";

interface Flags extends DaemonFlags {
  readonly force?: boolean;
  readonly keepDisk?: boolean;
}

export function define(command: Command): void {
  jsonOption(daemonOptions(command))
    .argument("<name>", "what was deployed")
    .option("--force", "do not wait for the guest to power off")
    .option("--keep-disk", "its image stays; one that is not complete lies over the image that it was made from")
    .addHelpText("after", helpAfter(["streamdisk undeploy vm1", "streamdisk undeploy vm2 --keep-disk"]))
    .action(async (name: string, flags: Flags) => {
      const { force = false, keepDisk = false } = flags;
      await withDaemon(flags, async (client) => {
        const params = { deployment: name };
        const kept = keepDisk ? await client.call("getDeployment", { params }) : undefined;
        await client.call("undeploy", { params, query: { force, keepDisk } });
        if (flags.json) printJson({ name, ...(kept !== undefined && { overlay: kept.overlay }) });
        else printLines(`'${name}' was removed; ${kept ? `its image '${kept.overlay}' stays` : "its disk too"}`);
      });
    });
}
