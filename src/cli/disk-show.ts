import { withDaemon } from "./daemon-link.ts";
import type { DaemonFlags } from "./daemon-options.ts";
import { diskLines } from "./disk-lines.ts";
import { printJson, printLines, printWarnings } from "./output.ts";

/** Shows a disk of the daemon, as `disk show` and `info` do. */
export async function showDisk(disk: string, flags: DaemonFlags): Promise<void> {
  await withDaemon(flags, async (client) => {
    const shown = await client.call("getDisk", { params: { disk } });
    printWarnings(shown.warnings);
    if (flags.json) printJson(shown);
    else printLines(...diskLines(shown));
  });
}
