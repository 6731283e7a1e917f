import type { Command } from "commander";
import type { Job } from "../../api/index.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { jobsTable } from "../disk-lines.ts";
import { helpAfter } from "../help.ts";
import { parseCount } from "../numbers.ts";
import { jsonOption } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { diskName } from "../targets.ts";

interface Flags extends DaemonFlags {
  readonly history?: boolean;
  readonly disk?: string;
  readonly limit: number;
}

const UNFINISHED = ["created", "running", "paused", "waiting"] as const;
const MOST = 1000;

export function define(command: Command): void {
  command
    .option("--history", "also those that have ended, the newest first")
    .option("--disk <name>", "only those of one disk")
    .option("--limit <number>", "how many at most", parseCount, 100);
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter(["streamdisk jobs", "streamdisk jobs --history --disk vm1"]))
    .action(async (flags: Flags) => {
      await withDaemon(flags, async (client) => {
        const limit = Math.max(1, Math.min(MOST, flags.limit));
        const ofDisk = flags.disk === undefined ? {} : { disk: diskName(flags.disk) };
        const states = flags.history ? [{}] : UNFINISHED.map((state) => ({ state }));
        const pages = await Promise.all(
          states.map((state) => client.call("listJobs", { query: { limit, ...ofDisk, ...state } })),
        );
        const jobs: Job[] = pages.flatMap((page) => page.jobs).sort((a, b) => b.createdAt - a.createdAt);
        if (flags.json) printJson(jobs.slice(0, limit));
        else printLines(...jobsTable(jobs.slice(0, limit)));
      });
    });
}
