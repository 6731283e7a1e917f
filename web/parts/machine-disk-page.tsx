import { useEffect, useState } from "preact/hooks";
import { machineCondition, machineDiskCondition } from "../machine-words.ts";
import { events } from "../state/fleet.ts";
import { machineDisk, machines } from "../state/machines.ts";
import { WatchedMachineDisk } from "../state/watched-machine-disk.ts";
import { activeOf, bytes, forPeople, percent, storyOf } from "../words.ts";
import { FiguresBar } from "./bar.tsx";
import { EventList } from "./event-list.tsx";
import { StreamActions } from "./stream-actions.tsx";
import { Trail } from "./trail.tsx";

/** One disk that a machine's QEMU owns: what can be known of it from outside. */
export function MachineDiskPage({ name }: { readonly name: string }) {
  const [watched, setWatched] = useState<WatchedMachineDisk>();
  const newest = events.value.find(({ disk }) => disk === name)?.id;
  useEffect(() => {
    const leaving = new AbortController();
    setWatched(new WatchedMachineDisk(name, leaving.signal));
    return () => leaving.abort();
  }, [name]);
  useEffect(() => {
    void watched?.refresh();
  }, [watched, newest]);
  return watched === undefined ? null : <Shown watched={watched} />;
}

function Shown({ watched }: { readonly watched: WatchedMachineDisk }) {
  const { name } = watched;
  const now = watched.now.value;
  const known = machineDisk(name);
  const disk = now ?? known?.disk;
  if (disk === undefined) {
    const error = watched.error.value;
    const isLooking = error === undefined || machines.value === undefined;
    return (
      <>
        <Trail name={name} />
        <p class={isLooking ? "hint" : "bad-text"}>{isLooking ? "Looking at it…" : error}</p>
      </>
    );
  }
  const { stream } = watched;
  const figures = activeOf(stream) ?? now;
  const hydrated = now?.hydrated;
  const { word, tone } = machineDiskCondition({ ...disk, ...(stream !== undefined && { stream }) }, hydrated);
  const here = events.value.filter((event) => event.disk === name);
  return (
    <article class="one-disk">
      <Trail name={name} />
      <div class="disk-head">
        <h1>{name}</h1>
        <span class="state" data-tone={tone}>
          {word}
        </span>
        <StreamActions
          name={name}
          stream={stream}
          canFetch={hydrated !== true}
          backing={hydrated === true ? undefined : disk.backing}
          replaceSource={(order) => watched.replaceSource(order)}
          refresh={() => watched.refresh()}
        />
      </div>
      <p class="story">{story(watched)}</p>
      {figures !== undefined && (
        <FiguresBar
          label={name}
          length={figures.length}
          localBytes={figures.localBytes}
          missingBytes={figures.missingBytes}
        />
      )}
      {watched.error.value !== undefined && <p class="bad-text">{forPeople(watched.error.value)}</p>}
      <div class="columns">
        <MachineLoss missing={figures?.missingBytes} length={figures?.length} hydrated={hydrated} />
        <Facts watched={watched} />
      </div>
      <section class="panel what-happened">
        <h2>What happened</h2>
        <EventList events={here} most={20} />
      </section>
    </article>
  );
}

/** How far it is and what goes on. */
function story({ now: { value: now }, stream }: WatchedMachineDisk): string {
  if (now?.hydrated === true) return `All ${bytes(now.length)} are here. This disk stands alone.`;
  const figures = activeOf(stream) ?? now;
  if (figures === undefined) return "How much of it is here is not known at the moment.";
  return storyOf(figures.length, figures.missingBytes, stream);
}

interface LossParts {
  readonly missing: number | undefined;
  readonly length: number | undefined;
  readonly hydrated: boolean | undefined;
}

/** What would be lost if the source died now. What is served below it may hold reads for a while; how they end then is for QEMU's device to say. */
function MachineLoss({ missing, length, hydrated }: LossParts) {
  const isSafe = hydrated === true || missing === 0;
  return (
    <section class="panel" data-tone={isSafe ? "good" : "calm"}>
      <h2>If the source died now</h2>
      <p class="figure">{missing === undefined ? "Not known" : isSafe ? "Nothing" : bytes(missing)}</p>
      {isSafe && <p>would be lost. All of this disk is here.</p>}
      {!isSafe && missing !== undefined && (
        <p>
          would be out of reach: {percent(missing, length ?? missing)} of the disk. All else would go on at full speed.
          A read of what is missing would wait as long as what serves the source has it wait, and then end as its
          machine was started: with an error for its system, or with the machine paused (rerror=stop). A stream would
          wait and go on by itself.
        </p>
      )}
    </section>
  );
}

function Facts({ watched }: { readonly watched: WatchedMachineDisk }) {
  const known = machineDisk(watched.name);
  const disk = watched.now.value ?? known?.disk;
  const machine = known?.machine;
  const condition = machine && machineCondition(machine);
  return (
    <section class="panel" {...(condition !== undefined && { "data-tone": condition.tone })}>
      <h2>Its machine</h2>
      {machine !== undefined && condition !== undefined && (
        <p>
          {machine.name}{" "}
          <span class="state" data-tone={condition.tone}>
            {condition.word}
          </span>
        </p>
      )}
      {machine?.pause !== undefined && <p class="bad-text">{forPeople(machine.pause.reason)}</p>}
      {machine?.error !== undefined && <p class="bad-text">{forPeople(machine.error.message)}</p>}
      <dl class="facts">
        {disk?.image !== undefined && <Fact name="Image" value={disk.image} />}
        {disk?.format !== undefined && <Fact name="Format" value={disk.format} />}
        {disk?.alias !== undefined && <Fact name="Alias" value={disk.alias} />}
        <Fact
          name="Lies over"
          value={watched.now.value?.hydrated === true ? "nothing" : (disk?.backing ?? "nothing")}
        />
      </dl>
    </section>
  );
}

function Fact({ name, value }: { readonly name: string; readonly value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd class="uri">{value}</dd>
    </div>
  );
}
