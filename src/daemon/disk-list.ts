/**
 * The list of disks, a page at a time. Each disk is asked how it is, some at once; what is remembered of their streams is asked of the
 * store once for all that go on the page.
 */
import type { CheckedInput, Disk, Job, RouteResult } from "../api/index.ts";
import type { DiskInfo } from "../engine/index.ts";
import { hostOfReference, shownReference } from "../sources/index.ts";
import type { HeldDisk } from "./disks.ts";
import { below, diskView } from "./views.ts";

type Query = CheckedInput<"listDisks">["query"];

/** Disks that are asked how they are at once. */
const MOST_ASKED = 16;
const THIS_HOST = "this host";

interface Asked {
  readonly held: HeldDisk;
  readonly info: DiskInfo | undefined;
  readonly below: NonNullable<Disk["below"]>;
}

/**
 * @param disks in the order of their names
 * @param streamsOf by the ids of disks: the stream of each that has not ended, or the last
 */
export async function listDisks(
  disks: readonly HeldDisk[],
  query: Query,
  streamsOf: (ids: readonly string[]) => Promise<ReadonlyMap<string, Job>>,
): Promise<RouteResult<"listDisks">> {
  const { after = "", limit, wide = false } = query;
  const later = disks.filter(({ record }) => record.name > after);
  const found: Asked[] = [];
  for (let at = 0; at < later.length && found.length <= limit; at += MOST_ASKED) {
    const asked = await Promise.all(later.slice(at, at + MOST_ASKED).map(ask));
    found.push(...asked.filter((disk) => isWanted(disk, query)));
  }
  const page = found.slice(0, limit);
  const streams = await streamsOf(page.map(({ held }) => held.record.id));
  const next = found.length > limit ? page.at(-1)?.held.record.name : undefined;
  return {
    disks: page.map(({ held: { record, host }, info, below }) => ({
      ...diskView(record, { info, error: host.error, stream: streams.get(record.id) }),
      ...(wide && { below }),
    })),
    ...(next !== undefined && { next }),
  };
}

async function ask(held: HeldDisk): Promise<Asked> {
  const info = await held.host.served?.info().catch(() => undefined);
  const places = below(held.record.settings, info);
  return { held, info, below: places.map((uri) => ({ uri, host: hostOfReference(uri) ?? THIS_HOST })) };
}

function isWanted({ info, below }: Asked, { hydrated, source, host }: Query): boolean {
  if (hydrated !== undefined && (info?.hydrated ?? false) !== hydrated) return false;
  if (source !== undefined && !below.some(({ uri }) => uri === shownReference(source))) return false;
  return host === undefined || below.some((layer) => layer.host === host.toLowerCase());
}
