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
        const before = await client.call("getDeployment", { params });
        await client.call("undeploy", { params, query: { force, keepDisk } });
        // Also where a removal that was begun before was to keep it.
        const { overlay } = keepDisk || before.keepDisk ? before : { overlay: undefined };
        if (flags.json) printJson({ name, ...(overlay !== undefined && { overlay }) });
        else printLines(`'${name}' was removed; ${overlay ? `its image '${overlay}' stays` : "its disk too"}`);
      });
    });
}
