/** The way of guests to a disk: the export, what is held there, copy-on-read. */
import { isOverlay } from "../block/index.ts";
import type { Chain } from "../chain/index.ts";
import { BlockCache, CopyOnRead, Hold, type SourceWatch } from "../filters/index.ts";
import type { NbdExport } from "../nbd/index.ts";
import type { Activity, Range } from "./activity.ts";
import type { DiskSpec } from "./disk-spec.ts";
import { watchedRequests } from "./watched-requests.ts";

export interface GuestSide {
  /** Absent where nothing can be missing. */
  readonly copyOnRead: CopyOnRead | undefined;
  readonly hold: Hold;
}

/** What stands between the guests and an image that needs something from elsewhere, or has many readers. */
export function guestSide(
  { node, layers }: Chain,
  { copyOnRead: keeps, onSourceError: policy, relay = false, cache }: DiskSpec,
  watches: readonly SourceWatch[],
  activity: Activity,
  onPause: () => void,
): GuestSide | undefined {
  const isLocal = layers[0]?.file !== undefined;
  const needsBelow = isOverlay(node) && node.backing !== undefined;
  if (isLocal && !needsBelow && cache === undefined) return undefined;
  const onFetch = (range: Range) => {
    const ended = activity.begin(range);
    return (kept: boolean): void => ended(kept ? "read" : undefined);
  };
  const copyOnRead = needsBelow ? new CopyOnRead(node, { keep: keeps && !node.readOnly, onFetch }) : undefined;
  const onHeld = (range: Range) => activity.wait(range);
  const whole = copyOnRead ?? node;
  const disk = cache === undefined ? whole : new BlockCache(whole, cache);
  return { copyOnRead, hold: new Hold(disk, { policy, watches, relay, onPause, onHeld }) };
}

export function exportOf(
  { exportName: name, readOnly, maxConnections }: DiskSpec,
  { node }: Chain,
  activity: Activity,
  guest?: GuestSide,
): NbdExport {
  const limit = maxConnections === undefined ? {} : { maxConnections };
  const hold = guest?.hold;
  const connect = watchedRequests(() => hold?.connect() ?? (() => node), activity);
  return { name, node: hold ?? node, connect, readOnly, ...limit };
}
