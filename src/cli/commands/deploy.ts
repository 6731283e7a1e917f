import { type Command, Option } from "commander";
import type { DaemonClient } from "../../client/index.ts";
import type { SourcePolicy } from "../../filters/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { deployedLines } from "../deployment-lines.ts";
import { followStream } from "../disk-stream.ts";
import { helpAfter } from "../help.ts";
import { jsonOption, parseFormat } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { parseSourcePolicy, sentPolicy } from "../source-policy.ts";
import { placeForDaemon } from "../targets.ts";
import { parseRate, parseSize } from "../units.ts";

interface Flags extends DaemonFlags {
  readonly name: string;
  readonly format?: "qcow2" | "qed";
  readonly imageFormat?: FormatName;
  readonly diskSize?: number;
  readonly speed?: number;
  readonly onSourceError?: SourcePolicy;
  readonly wait?: "running" | "hydrated";
}

export function define(command: Command): void {
  jsonOption(daemonOptions(command))
    .argument("<image>", "what it is made from: a path or a URI")
    .requiredOption("--name <name>", "what it is to be called")
    .addOption(new Option("-f, --format <format>", "format of its disk; without it qcow2").choices(["qcow2", "qed"]))
    .option("--image-format <format>", "format of the image; without it, its first bytes decide", parseFormat)
    .option("--disk-size <size>", "virtual size of its disk; without it, that of the image", parseSize)
    .option("--speed <rate>", "bytes a second that are fetched at most, for example 50M", parseRate)
    .option("--on-source-error <policy>", "what a read of a lost source gets: as for serve", parseSourcePolicy)
    .addOption(
      new Option("--wait <state>", "until it runs, or until its disk stands alone; without it running").choices([
        "running",
        "hydrated",
      ]),
    )
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk deploy https://images.example/debian.qcow2 --name vm1",
        "streamdisk deploy ./debian.qcow2 --name vm2 --disk-size 20G --wait hydrated",
      ]),
    )
    .action(deploy);
}

async function deploy(image: string, flags: Flags): Promise<void> {
  const { name, wait } = flags;
  await withDaemon(flags, async (client) => {
    const made = await order(client, image, flags);
    if (!flags.json) printLines(...deployedLines(made));
    if (wait === "hydrated") await followStream(client, made.disk, flags);
    if (flags.json) printJson(await client.call("getDeployment", { params: { deployment: name } }));
  });
}

function order(client: DaemonClient, image: string, flags: Flags) {
  const { name, format, imageFormat, diskSize, speed, onSourceError } = flags;
  const body = {
    ...{ name, image: placeForDaemon(image) },
    ...(format !== undefined && { format }),
    ...(imageFormat !== undefined && { imageFormat }),
    ...(diskSize !== undefined && { size: diskSize }),
    ...(speed !== undefined && { speed }),
    ...(onSourceError !== undefined && { onSourceError: sentPolicy(onSourceError) }),
  };
  return client.call("deploy", { body });
}
