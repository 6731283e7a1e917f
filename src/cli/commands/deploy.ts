import { type Command, Option } from "commander";
import type { Deployment, RouteInput } from "../../api/index.ts";
import type { DaemonClient } from "../../client/index.ts";
import type { SourcePolicy } from "../../filters/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { deployedLines } from "../deployment-lines.ts";
import { followStream } from "../disk-stream.ts";
import { helpAfter } from "../help.ts";
import { interruptible } from "../interrupt.ts";
import { jsonOption, parseFormat } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { readText } from "../read-text.ts";
import { parseSourcePolicy, sentPolicy } from "../source-policy.ts";
import { showSteps } from "../steps-line.ts";
import { placeForDaemon } from "../targets.ts";
import { parseRate, parseSize } from "../units.ts";
import { splitWords } from "../words.ts";

type Order = RouteInput<"deploy">["body"];

interface Flags extends DaemonFlags {
  readonly name: string;
  readonly format?: "qcow2" | "qed";
  readonly owner?: "qemu" | "engine";
  readonly xml?: string;
  readonly qemu?: string;
  readonly exportOnly?: boolean;
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
    .addOption(
      new Option("--owner <who>", "who opens its disk's image: its QEMU, or the daemon; without it qemu").choices([
        "qemu",
        "engine",
      ]),
    )
    .addOption(
      new Option("--xml <file>", "libvirt's XML of the machine; its disk vda is the one that is made").conflicts(
        "qemu",
      ),
    )
    .option("--qemu <args>", "a usual machine, with these arguments of QEMU too")
    .addOption(
      new Option("--export-only", "no machine: a disk of the daemon, and what to paste for one").conflicts([
        "xml",
        "qemu",
      ]),
    )
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
        "streamdisk deploy https://images.example/debian.qcow2 --name vm1 --qemu '-m 2G -nic user'",
        "streamdisk deploy ./debian.qcow2 --name vm2 --disk-size 20G --xml vm2.xml --wait hydrated",
        "streamdisk deploy ./debian.qcow2 --name vm3 --export-only",
      ]),
    )
    .action(deploy);
}

async function deploy(image: string, flags: Flags): Promise<void> {
  const { name, wait } = flags;
  const body = await orderOf(image, flags);
  await withDaemon(flags, async (client) => {
    const made = await make(client, body, flags);
    if (!flags.json) printLines(...deployedLines(made));
    if (wait === "hydrated") await followStream(client, made.disk, flags);
    if (flags.json) printJson(await client.call("getDeployment", { params: { deployment: name } }));
  });
}

/** Ctrl-C ends the waiting, and nothing else. */
async function make(client: DaemonClient, body: Order, { name, json }: Flags): Promise<Deployment> {
  const over = new AbortController();
  const shown = json === true ? undefined : showSteps(client, name, over.signal);
  try {
    return await interruptible(
      (signal) => client.call("deploy", { body }, { signal }),
      `The daemon goes on with '${name}': see 'streamdisk deployments', take it away with 'streamdisk undeploy ${name}'`,
    );
  } finally {
    over.abort();
    await shown;
  }
}

async function orderOf(image: string, flags: Flags): Promise<Order> {
  const { name, format, imageFormat, owner, diskSize, speed, onSourceError, exportOnly = false } = flags;
  const machine = await machineOf(flags);
  return {
    ...{ name, image: placeForDaemon(image), exportOnly },
    ...(owner !== undefined && { owner }),
    ...(machine !== undefined && { machine }),
    ...(format !== undefined && { format }),
    ...(imageFormat !== undefined && { imageFormat }),
    ...(diskSize !== undefined && { size: diskSize }),
    ...(speed !== undefined && { speed }),
    ...(onSourceError !== undefined && { onSourceError: sentPolicy(onSourceError) }),
  };
}

async function machineOf({ xml, qemu }: Flags): Promise<{ xml: string } | { args: string[] } | undefined> {
  if (xml !== undefined) return { xml: await readText(xml) };
  return qemu === undefined ? undefined : { args: splitWords(qemu) };
}
