import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { within } from "../../block/index.ts";
import type { CallOptions } from "../../client/index.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { allDisks } from "../disk-list.ts";
import { domainTopLines } from "../domain-watch.ts";
import { helpAfter } from "../help.ts";
import { LiveScreen } from "../live-screen.ts";
import { jsonOption } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { topLines } from "../watch-lines.ts";

const LOOK_MS = 1000;
/** How long a picture waits for the domains. */
const PATIENCE_MS = 200;

export function define(command: Command): void {
  jsonOption(daemonOptions(command))
    .addHelpText(
      "after",
      helpAfter(["streamdisk top", "streamdisk top | head", "streamdisk top --json | jq '.[].load'"]),
    )
    .action(top);
}

async function top(flags: DaemonFlags): Promise<void> {
  await withDaemon(flags, async (client) => {
    const disksNow = async (): Promise<string[]> => {
      const [info, disks] = await Promise.all([client.call("daemon", {}), allDisks(client)]);
      return topLines(info, disks, Date.now());
    };
    const domainsNow = async (options: CallOptions = {}): Promise<string[]> =>
      domainTopLines((await client.call("listDomains", {}, options)).domains);
    if (flags.json) return printJson(await allDisks(client));
    if (!process.stdout.isTTY) return printLines(...(await Promise.all([disksNow(), domainsNow()])).flat());
    let disks = await disksNow();
    using screen = new LiveScreen();
    const signal = screen.over;
    let domains: string[] = [];
    let looking: Promise<void> | undefined;
    while (!signal.aborted) {
      // One whose QEMU hangs is waited for, and nothing else is held up by it.
      looking ??= domainsNow({ signal })
        .then((lines) => {
          domains = lines;
        })
        // Whether the daemon is there at all is told with the disks.
        .catch(() => {})
        .finally(() => {
          looking = undefined;
        });
      await within(looking, PATIENCE_MS);
      screen.draw([...disks, ...domains], "q ends");
      await sleep(LOOK_MS, undefined, { signal }).catch(() => {});
      if (!signal.aborted) disks = await disksNow();
    }
  });
}
