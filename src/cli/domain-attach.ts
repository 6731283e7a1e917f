/** Disks of the daemon, put into machines that run and taken out again. */
import type { Command } from "commander";
import { withDaemon } from "./daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "./daemon-options.ts";
import { helpAfter } from "./help.ts";
import { jsonOption } from "./options.ts";
import { printJson, printLines } from "./output.ts";
import { diskName } from "./targets.ts";

export function defineAttach(parent: Command): void {
  const attach = parent.command("attach").description("Put a disk of the daemon into a machine that runs.");
  jsonOption(daemonOptions(attach))
    .argument("<name>", "name of the domain")
    .argument("<disk>", "the disk of the daemon")
    .option("--target <device>", "what it is to be called, vdb for example; without it, the first that is free")
    .addHelpText("after", helpAfter(["streamdisk domain attach web vm1-data --target vdb"]))
    .action(async (domain: string, name: string, flags: DaemonFlags & { readonly target?: string }) => {
      const disk = diskName(name);
      const body = { disk, ...(flags.target !== undefined && { target: flags.target }) };
      const added = await withDaemon(flags, (client) => client.call("attachDisk", { params: { domain }, body }));
      if (flags.json) printJson(added);
      else printLines(`'${disk}' is '${added.name}' now`);
    });
  const detach = parent.command("detach").description("Take a disk out of a machine that was put in while it ran.");
  jsonOption(daemonOptions(detach))
    .argument("<name>", "name of the domain")
    .argument("<device>", "the disk, by its target or alias")
    .addHelpText("after", helpAfter(["streamdisk domain detach web vdb"]))
    .action(async (domain: string, device: string, flags: DaemonFlags) => {
      await withDaemon(flags, (client) => client.call("detachDisk", { params: { domain, device } }));
      if (flags.json) printJson({ domain, device });
      else printLines(`'${domain}:${device}' was taken out of the machine`);
    });
}
