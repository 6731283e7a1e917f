import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
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
    const look = async (): Promise<string[]> => {
      const { domains } = await client.call("listDomains", {});
      const disks = topLines(await client.call("daemon", {}), await allDisks(client), Date.now());
      return [...disks, ...domainTopLines(domains)];
    };
    if (flags.json) return printJson(await allDisks(client));
    const first = await look();
    if (!process.stdout.isTTY) return printLines(...first);
    using screen = new LiveScreen();
    const { over } = screen;
    for (let lines = first; !over.aborted; ) {
      screen.draw(lines, "q ends");
      await sleep(LOOK_MS, undefined, { signal: over }).catch(() => {});
      if (!over.aborted) lines = await look();
    }
  });
}
