/** `domain pause|resume|reset|stop`: what is done with a virtual machine as a whole. */
import type { Command } from "commander";
import type { Domain } from "../api/index.ts";
import type { DaemonClient } from "../client/index.ts";
import { withDaemon } from "./daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "./daemon-options.ts";
import { helpAfter } from "./help.ts";
import { jsonOption } from "./options.ts";
import { printJson, printLines } from "./output.ts";
import { parseDuration } from "./units.ts";

interface StopFlags extends DaemonFlags {
  readonly force?: boolean;
  readonly timeout?: number;
}

interface Act {
  readonly name: string;
  readonly route: "pauseDomain" | "resumeDomain" | "resetDomain";
  readonly about: string;
  /** What the domain has done then. */
  readonly done: string;
}

const ACTS: readonly Act[] = [
  {
    ...{ name: "pause", route: "pauseDomain", done: "is paused, until it is resumed" },
    about: "Pause a machine until it is resumed, whatever becomes of its sources and of the daemon.",
  },
  {
    ...{ name: "resume", route: "resumeDomain", done: "goes on" },
    about: "Let a machine go on, whoever or whatever has paused it.",
  },
  { name: "reset", route: "resetDomain", done: "was reset", about: "Reset a machine, as its button does." },
];

export function defineDomainActs(command: Command): void {
  for (const { name: act, route, done, about } of ACTS) {
    jsonOption(daemonOptions(command.command(act).description(about)))
      .argument("<name>", "name of the domain")
      .addHelpText("after", helpAfter([`streamdisk domain ${act} web`]))
      .action((name: string, flags: DaemonFlags) =>
        run(flags, name, done, (client) => client.call(route, { params: { domain: name } })),
      );
  }
  const stop = command
    .command("stop")
    .description("Have the guest power itself off, and wait until its QEMU has ended.");
  jsonOption(daemonOptions(stop))
    .argument("<name>", "name of the domain")
    .option("--force", "end its QEMU at once, without a word to the guest")
    .option("--timeout <duration>", "how long it may take; without it, 1m", parseDuration)
    .addHelpText("after", helpAfter(["streamdisk domain stop web --timeout 2m", "streamdisk domain stop web --force"]))
    .action((name: string, { force, timeout, ...flags }: StopFlags) => {
      const body = { ...(force && { force }), ...(timeout !== undefined && { timeoutMs: timeout }) };
      return run(flags, name, "has ended", (client) => client.call("stopDomain", { params: { domain: name }, body }));
    });
}

async function run(
  flags: DaemonFlags,
  name: string,
  done: string,
  act: (client: DaemonClient) => Promise<Domain>,
): Promise<void> {
  const domain = await withDaemon(flags, act);
  if (flags.json) printJson(domain);
  else printLines(`The domain '${name}' ${done}`);
}
