/** `daemon status`: whether a daemon runs, and what it is. */
import type { DaemonInfo } from "../api/index.ts";
import { isUnreachable, linkToDaemon } from "./daemon-link.ts";
import type { DaemonFlags } from "./daemon-options.ts";
import { printJson, printLines } from "./output.ts";
import { formatDuration } from "./units.ts";

/** No daemon runs there: what LSB gives to a program that does not. */
export const EXIT_NONE = 3;

export async function daemonStatus(flags: DaemonFlags): Promise<void> {
  const { client, address } = await linkToDaemon(flags);
  const info = await client.call("daemon", {}).catch((error: unknown) => {
    if (isUnreachable(error)) return undefined;
    throw error;
  });
  if (info === undefined) process.exitCode = EXIT_NONE;
  if (flags.json) printJson({ running: info !== undefined, address, ...info });
  else if (info === undefined) printLines(`No daemon runs at '${address}': start one with 'streamdisk daemon'`);
  else printLines(...infoLines(address, info));
}

function infoLines(
  address: string,
  { version, node, startedAt, disks, streams, maxStreams, imageDirectory, damage = [] }: DaemonInfo,
) {
  const age = formatDuration(Math.max(0, Date.now() - startedAt));
  return [
    `address: ${address}`,
    `version: ${version} (Node.js ${node})`,
    `since: ${new Date(startedAt).toISOString()} (${age})`,
    `disks: ${disks}`,
    `streams: ${streams} of at most ${maxStreams} at once`,
    `images: ${imageDirectory}`,
    ...damage.map((message) => `damage at its start: ${message}`),
  ];
}
