/** Commands that do one thing to the stream of a disk and show what became of it. */
import type { Command } from "commander";
import type { Job } from "../api/index.ts";
import { withDaemon } from "./daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "./daemon-options.ts";
import { helpAfter } from "./help.ts";
import { jsonOption } from "./options.ts";
import { printJson, printLines } from "./output.ts";
import { diskName } from "./targets.ts";
import { formatSize } from "./units.ts";

export function defineJobCommand(
  command: Command,
  call: "pauseStream" | "resumeStream" | "cancelStream",
  example: string,
): void {
  command.argument("<disk>", "the disk of the daemon");
  jsonOption(daemonOptions(command))
    .addHelpText("after", helpAfter([example]))
    .action(async (name: string, flags: DaemonFlags) => {
      await withDaemon(flags, async (client) => {
        showJob(await client.call(call, { params: { disk: diskName(name) }, body: {} }), flags);
      });
    });
}

/** Says how a stream is, in a sentence or as JSON. */
export function showJob(job: Job, { json }: DaemonFlags): void {
  if (json) printJson(job);
  else printLines(jobSentence(job));
}

function jobSentence({ disk, state, missingBytes, reason, speed }: Job): string {
  const left = `${formatSize(missingBytes)} missing`;
  const limit = speed === undefined ? "" : `, at most ${formatSize(speed)}/s`;
  if (state === "created" || reason?.code === "queued")
    return `The stream of '${disk}' waits for its turn: ${left}${limit}`;
  if (state === "running") return `The stream of '${disk}' runs: ${left}${limit}`;
  if (state === "waiting") return `The stream of '${disk}' waits: ${reason?.message ?? "-"}; ${left}${limit}`;
  if (state === "paused")
    return `The stream of '${disk}' is paused, also over restarts: ${left}. Go on with: streamdisk resume ${disk}`;
  if (state === "cancelled") return `The stream of '${disk}' is cancelled: ${left}; what was fetched stays`;
  return `The stream of '${disk}' is ${state}`;
}
