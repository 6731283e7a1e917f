import { createHash } from "node:crypto";
import { StreamdiskError } from "../errors/index.ts";
import type { GuestDisk } from "../nbd/index.ts";
import { withDaemon } from "./daemon-link.ts";
import type { DaemonFlags } from "./daemon-options.ts";
import { diskLines } from "./disk-lines.ts";
import { printJson, printLines, printWarnings, shellWord } from "./output.ts";

/** Shows a disk of the daemon, as `disk show` and `info` do. */
export async function showDisk(disk: string, flags: DaemonFlags): Promise<void> {
  await withDaemon(flags, async (client) => {
    const shown = await client.call("getDisk", { params: { disk } });
    printWarnings(shown.warnings);
    if (flags.json) printJson(shown);
    else printLines(...diskLines(shown));
  });
}

/** For whom a disk can be written down. */
export const DISK_TEXTS = ["qemu", "libvirt", "uri"] as const;
export type DiskText = (typeof DISK_TEXTS)[number];

/** Prints what a machine is given that shall have a disk of the daemon, and nothing else. */
export async function showDiskAs(name: string, as: DiskText, flags: DaemonFlags): Promise<void> {
  const { uri, readOnly } = await withDaemon(flags, (client) => client.call("getDisk", { params: { disk: name } }));
  if (uri === undefined) {
    throw new StreamdiskError("source-lost", `'${name}' is not served: 'streamdisk disk show ${name}' says why`);
  }
  const { json, lines } = await textOf(name, { uri, readOnly }, as);
  if (flags.json) printJson(json);
  else printLines(...lines);
}

async function textOf(name: string, disk: GuestDisk, as: DiskText): Promise<{ json: unknown; lines: string[] }> {
  const { libvirtDisk, qemuDisk } = await import("../nbd/index.ts");
  if (as === "uri") return { json: { uri: disk.uri }, lines: [disk.uri] };
  if (as === "libvirt") return { json: { xml: libvirtDisk(disk).join("\n") }, lines: libvirtDisk(disk) };
  const args = qemuDisk(disk, nodeName(name));
  return { json: { args }, lines: [args.map(shellWord).join(" ")] };
}

const LONGEST_NODE_NAME = 31;
const DIGEST_DIGITS = 8;

/** As QEMU takes them: a letter first, 31 characters at most. Names that begin alike stay apart. */
function nodeName(disk: string): string {
  const name = `disk-${disk}`;
  if (name.length <= LONGEST_NODE_NAME) return name;
  const digest = createHash("sha256").update(disk).digest("hex").slice(0, DIGEST_DIGITS);
  return `${name.slice(0, LONGEST_NODE_NAME - DIGEST_DIGITS - 1)}-${digest}`;
}
