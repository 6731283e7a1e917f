import type { Disk } from "../api/index.ts";
import type { DaemonClient } from "../client/index.ts";

const PAGE = 1000;

/** All disks of a daemon, in the order of their names. */
export async function allDisks(client: DaemonClient, signal?: AbortSignal): Promise<Disk[]> {
  const disks: Disk[] = [];
  for (let after: string | undefined; ; ) {
    const query = { limit: PAGE, ...(after !== undefined && { after }) };
    const page = await client.call("listDisks", { query }, signal === undefined ? {} : { signal });
    disks.push(...page.disks);
    after = page.next;
    if (after === undefined) return disks;
  }
}
