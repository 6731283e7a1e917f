/** `domain start`: a machine of the daemon's own, by its XML or by its name. */
import type { Command } from "commander";
import { StreamdiskError } from "../errors/index.ts";
import { withDaemon } from "./daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "./daemon-options.ts";
import { domainLines } from "./domain-show.ts";
import { helpAfter } from "./help.ts";
import { jsonOption } from "./options.ts";
import { printJson, printLines } from "./output.ts";
import { readText } from "./read-text.ts";

interface StartFlags extends DaemonFlags {
  readonly xml?: string;
  readonly autostart?: boolean;
}

export function defineStart(parent: Command): void {
  const start = parent
    .command("start")
    .summary("Run a virtual machine, by its XML or again.")
    .description(
      "Run a virtual machine, by its XML or, one that was run before, by its name. It lives on without the daemon.",
    );
  jsonOption(daemonOptions(start))
    .argument("[name]", "name of a machine that was started before")
    .option("--xml <file>", "libvirt's XML of a machine: all of it is done, or it is refused by name")
    .option("--autostart", "start it with its host again, unless it was stopped on purpose")
    .option("--no-autostart", "leave it stopped after its host was started again")
    .addHelpText(
      "after",
      helpAfter(["streamdisk domain start --xml web.xml --autostart", "streamdisk domain start web"]),
    )
    .action(startDomain);
}

async function startDomain(name: string | undefined, { xml, autostart, ...flags }: StartFlags): Promise<void> {
  if ((name === undefined) === (xml === undefined)) {
    const message = "Name a machine to start it again, or give the XML of one with --xml, which has its name";
    throw new StreamdiskError("invalid-argument", message);
  }
  const how = autostart === undefined ? {} : { autostart };
  const text = xml === undefined ? "" : await readText(xml);
  const started = await withDaemon(flags, (client) =>
    name === undefined
      ? client.call("runMachine", { body: { xml: text, ...how } })
      : client.call("startDomain", { params: { domain: name }, body: how }),
  );
  if (flags.json) printJson(started);
  else printLines(...domainLines(started));
}
