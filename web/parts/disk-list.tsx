import { signal } from "@preact/signals";
import type { Disk } from "../../src/client/index.ts";
import { disks, events, type Source, sources } from "../state/fleet.ts";
import { deployments, machines } from "../state/machines.ts";
import { pathOf } from "../state/route.ts";
import {
  bytes,
  conditionOf,
  duration,
  forPeople,
  missingIn,
  percent,
  rate,
  reasonOf,
  sourceInWords,
} from "../words.ts";
import { FiguresBar } from "./bar.tsx";
import { EventList } from "./event-list.tsx";
import { MachineList } from "./machine-list.tsx";

const wanted = signal("");
/** With fewer there is nothing to look for. */
const MANY = 8;

/** All disks, where they come from, and what has happened. */
export function DiskList() {
  const all = disks.value;
  if (all === undefined) return <p class="hint">Looking for disks…</p>;
  if (all.length === 0 && (machines.value ?? []).length + deployments.value.length === 0) return <NoDisks />;
  const text = wanted.value.toLowerCase();
  const shown = all.filter(({ name, backing = "" }) => `${name} ${backing}`.toLowerCase().includes(text));
  return (
    <>
      <div class="list-head">
        <h1>Disks</h1>
        {all.length > 0 && <p class="hint">{summaryOf(all)}</p>}
        {all.length > MANY && (
          <label class="find">
            <span>Find</span>
            <input type="search" value={wanted.value} onInput={(event) => (wanted.value = event.currentTarget.value)} />
          </label>
        )}
      </div>
      <ul class="disks">
        {shown.map((disk) => (
          <DiskRow key={disk.id} disk={disk} />
        ))}
      </ul>
      {shown.length === 0 && all.length > 0 && <p class="hint">No disk is called so.</p>}
      {all.length === 0 && <p class="hint">The daemon has no disks of its own.</p>}
      <MachineList />
      <div class="columns">
        <Sources />
        <section class="panel">
          <h2>What happened</h2>
          <EventList events={events.value} most={10} />
        </section>
      </div>
    </>
  );
}

function summaryOf(all: readonly Disk[]): string {
  const complete = all.filter(({ hydrated }) => hydrated === true).length;
  const streaming = all.filter(({ stream }) => stream?.state === "running").length;
  const troubled = all.filter((disk) => conditionOf(disk).tone === "bad").length;
  const missing = all.reduce((sum, disk) => sum + missingIn(disk), 0);
  const parts = [`${all.length} in all`, `${complete} complete`];
  if (streaming > 0) parts.push(`${streaming} streaming`);
  if (troubled > 0) parts.push(`${troubled} in trouble`);
  if (missing > 0) parts.push(`${bytes(missing)} missing`);
  return parts.join(" · ");
}

function DiskRow({ disk }: { readonly disk: Disk }) {
  const { name, length = 0, stream, clients = 0 } = disk;
  const missing = missingIn(disk);
  const { word, tone } = conditionOf(disk);
  const runs = stream?.state === "running" && tone !== "bad" ? stream : undefined;
  const reason = whyOf(disk);
  return (
    <li>
      <a class="disk" href={pathOf(name)} data-tone={tone}>
        <span class="disk-name">{name}</span>
        <span class="state" data-tone={tone}>
          {word}
        </span>
        <FiguresBar label={name} length={length} localBytes={disk.localBytes ?? 0} missingBytes={missing} />
        <span class="disk-share">{length === 0 ? "" : percent(length - missing, length)}</span>
        <span class="disk-facts">
          <span>{bytes(length)}</span>
          {missing > 0 && <span>{bytes(missing)} missing</span>}
          {runs !== undefined && <span>{rate(runs.rate)}</span>}
          {runs?.etaSeconds !== undefined && <span>{duration(runs.etaSeconds)} left</span>}
          <span>
            {clients} {clients === 1 ? "client" : "clients"}
          </span>
          <span>source: {sourceInWords(disk)}</span>
        </span>
        {reason !== undefined && <span class="disk-reason">{forPeople(reason)}</span>}
      </a>
    </li>
  );
}

/** Why it is as it is, where that needs saying. */
function whyOf({ error, hydrated, source, stream }: Disk): string | undefined {
  if (error !== undefined) return error.message;
  if (hydrated === true) return undefined;
  if (source?.state !== "ok" && source?.message !== undefined && source.message !== "") return source.message;
  return reasonOf(stream);
}

function NoDisks() {
  return (
    <section class="empty panel">
      <h1>No disks yet</h1>
      <p>
        A disk is an overlay over an image somewhere else: it can be used at once, and what it lacks is fetched
        meanwhile.
      </p>
      <pre>
        <code>streamdisk disk create vm1 --backing https://images.example/debian.qcow2 --stream</code>
      </pre>
      <p class="hint">It appears here by itself.</p>
    </section>
  );
}

function Sources() {
  const known = sources.value;
  return (
    <section class="panel">
      <h2>Sources</h2>
      {known.length === 0 && <p class="hint">Nothing needs one.</p>}
      <ul class="sources">
        {known.map(({ uri, state, missingBytes, ...by }) => (
          <li key={uri}>
            <span class="uri">{uri}</span>{" "}
            {by.disks.length + by.exports.length > 0 && (
              <span class="state" data-tone={state === "ok" ? "good" : "bad"}>
                {state === "ok" ? "well" : state}
              </span>
            )}
            <span class="hint">{needed(neededBy(by), missingBytes)}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Machines and exports are told from disks by what they are. */
function neededBy({ disks, exports, domains }: Pick<Source, "disks" | "exports" | "domains">): readonly string[] {
  return [...disks, ...exports.map((name) => `the export ${name}`), ...domains.map((name) => `the machine ${name}`)];
}

function needed(by: readonly string[], missing: number): string {
  if (by.length === 0) return "Nothing needs it any more: it may go.";
  const lack = missing === 0 ? "" : `; ${bytes(missing)} are missing`;
  return `${by.join(", ")} ${by.length === 1 ? "needs" : "need"} it${lack}.`;
}
