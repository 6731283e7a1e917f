import type { Disk, RouteInput } from "../api/index.ts";
import type { DaemonClient } from "../client/index.ts";

const PAGE = 1000;

/** Which disks, and how much of each. */
export type DiskFilter = Omit<NonNullable<RouteInput<"listDisks">["query"]>, "after" | "limit">;

/** All disks of a daemon, or those that the filter leaves, in the order of their names. */
export async function allDisks(client: DaemonClient, signal?: AbortSignal, filter: DiskFilter = {}): Promise<Disk[]> {
  const disks: Disk[] = [];
  for (let after: string | undefined; ; ) {
    const query = { ...filter, limit: PAGE, ...(after !== undefined && { after }) };
    const page = await client.call("listDisks", { query }, signal === undefined ? {} : { signal });
    disks.push(...page.disks);
    after = page.next;
    if (after === undefined) return disks;
  }
}
