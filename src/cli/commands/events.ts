import type { Command } from "commander";
import type { Event } from "../../api/index.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { eventLine } from "../disk-lines.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { parseCount } from "../numbers.ts";
import { jsonOption } from "../options.ts";
import { printJsonLine, printLines, printWarnings } from "../output.ts";
import { diskName } from "../targets.ts";

interface Flags extends DaemonFlags {
  readonly follow?: boolean;
  readonly disk?: string;
  readonly after?: number;
}

const PAGE = 1000;

export function define(command: Command): void {
  command
    .option("--follow", "go on with what happens, until Ctrl-C; without --after, from now")
    .option("--disk <name>", "only those of one disk")
    .option("--after <id>", "only those after the one with this id", parseCount);
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter(["streamdisk events", "streamdisk events --follow --disk vm1 --json"]))
    .action(async (flags: Flags) => {
      const ofDisk: { readonly disk?: string } = flags.disk === undefined ? {} : { disk: diskName(flags.disk) };
      const show = (event: Event): void => {
        if (flags.json) printJsonLine(event);
        else printLines(eventLine(event));
      };
      await withDaemon(flags, async (client) => {
        if (flags.follow) {
          const from = flags.after === undefined ? {} : { after: flags.after };
          // One that is not there is said; one that goes away later is waited for.
          await client.call("daemon", {});
          const onLost = (): void => printWarnings(["the daemon does not answer: waiting for it"]);
          await interruptible(async (signal) => {
            for await (const event of client.watch({ ...from, signal, onLost }, ofDisk.disk)) show(event);
          });
          return;
        }
        for (let after = flags.after ?? 0; ; ) {
          const { events } = await client.call("listEvents", { query: { after, limit: PAGE, ...ofDisk } });
          for (const event of events) show(event);
          after = events.at(-1)?.id ?? after;
          if (events.length < PAGE) return;
        }
      });
    });
}
