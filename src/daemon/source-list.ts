import type { Source } from "../api/index.ts";
import { shownReference } from "../sources/index.ts";
import type { HeldDisk } from "./disks.ts";

type State = Source["state"];

const WORSE: Readonly<Record<State, number>> = { ok: 0, deleted: 1, lost: 2, changed: 3 };

/** Where the bytes of disks come from: which of the disks need each source, and how it is by what they have seen of it. */
export async function sourcesOf(disks: readonly HeldDisk[]): Promise<Source[]> {
  const found = new Map<string, { state: State; disks: string[]; missingBytes: number }>();
  const at = (uri: string) => {
    const there = found.get(uri) ?? { state: "ok", disks: [], missingBytes: 0 };
    found.set(uri, there);
    return there;
  };
  for (const { record, host } of disks) {
    const { backing } = record.settings;
    const info = await host.served?.info().catch(() => undefined);
    // One that is open says what it needs; of the other it is known what it was made over.
    const below = info?.below ?? (backing === undefined ? [] : [shownReference(backing)]);
    for (const uri of below) {
      const source = at(uri);
      source.disks.push(record.name);
      source.missingBytes += info?.missingBytes ?? 0;
      const state = info === undefined ? "lost" : info.source.state === "none" ? "ok" : info.source.state;
      if (WORSE[state] > WORSE[source.state]) source.state = state;
    }
    if (backing !== undefined && below.length === 0) at(shownReference(backing));
  }
  return [...found].map(([uri, source]) => ({ uri, ...source })).sort((a, b) => (a.uri < b.uri ? -1 : 1));
}
