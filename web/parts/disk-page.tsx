import { useEffect, useState } from "preact/hooks";
import type { Disk } from "../../src/client/index.ts";
import { daemonClient } from "../session.ts";
import { events } from "../state/fleet.ts";
import { WatchedDisk } from "../state/watched-disk.ts";
import { bytes, conditionOf, latency, storyOf, timeOfDay } from "../words.ts";
import { Bar } from "./bar.tsx";
import { EventList } from "./event-list.tsx";
import { LoadPanel } from "./load-panel.tsx";
import { LossPanel } from "./loss-panel.tsx";
import { MapPanel } from "./map-panel.tsx";
import { StreamActions } from "./stream-actions.tsx";
import { Trail } from "./trail.tsx";

/** One disk. */
export function DiskPage({ name }: { readonly name: string }) {
  const [watched, setWatched] = useState<WatchedDisk>();
  useEffect(() => {
    const leaving = new AbortController();
    const disk = new WatchedDisk(name, leaving.signal);
    setWatched(disk);
    void disk.run();
    return () => leaving.abort();
  }, [name]);
  if (watched === undefined) return null;
  return <Shown watched={watched} />;
}

function Shown({ watched }: { readonly watched: WatchedDisk }) {
  const disk = watched.disk.value;
  const error = watched.error.value;
  if (disk === undefined) {
    return (
      <>
        <Trail name={watched.name} />
        <p class={error === undefined ? "hint" : "bad-text"}>{error ?? "Looking at it…"}</p>
      </>
    );
  }
  const { word, tone } = conditionOf(disk);
  const total = watched.total.value ?? {
    local: disk.localBytes ?? 0,
    zero: disk.zeroBytes ?? 0,
    missing: disk.missingBytes ?? 0,
  };
  const here = events.value.filter((event) => event.disk === watched.name);
  return (
    <article class="one-disk">
      <Trail name={watched.name} />
      <div class="disk-head">
        <h1>{watched.name}</h1>
        <span class="state" data-tone={tone}>
          {word}
        </span>
        <StreamActions
          name={watched.name}
          stream={watched.live.value?.stream ?? disk.stream}
          canFetch={disk.hydrated !== true && !disk.readOnly && disk.state === "ready"}
          backing={disk.hydrated === true ? undefined : disk.backing}
          replaceSource={(order) => daemonClient().disk(watched.name).replaceSource(order)}
          refresh={() => watched.refresh()}
        />
      </div>
      <p class="story">{story(watched, disk)}</p>
      <Bar {...total} label={watched.name} />
      {disk.error !== undefined && <p class="bad-text">{disk.error.message}</p>}
      {error !== undefined && <p class="bad-text">{error}</p>}
      <MapPanel watched={watched} />
      <div class="columns">
        <LossPanel watched={watched} disk={disk} />
        <SourcePanel watched={watched} />
      </div>
      <LoadPanel watched={watched} />
      <div class="columns">
        <Clients watched={watched} />
        <section class="panel">
          <h2>What happened</h2>
          <EventList events={here} most={20} />
        </section>
      </div>
    </article>
  );
}

/** How far it is and what goes on. */
function story(watched: WatchedDisk, disk: Disk): string {
  const { length = 0, hydrated } = disk;
  const stream = watched.live.value?.stream ?? disk.stream;
  if (hydrated === true) return `All ${bytes(length)} are here. This disk stands alone.`;
  if (stream?.state === "completed" && stream.base !== undefined) {
    return `All is here that was to be fetched: this disk lies over its base, ${stream.base}, and needs that.`;
  }
  return storyOf(length, watched.total.value?.missing ?? disk.missingBytes ?? 0, stream);
}

function SourcePanel({ watched }: { readonly watched: WatchedDisk }) {
  const disk = watched.disk.value;
  const source = watched.live.value?.source ?? disk?.source;
  const { state = "none", message, held = 0 } = source ?? {};
  const words = {
    ok: "It answers.",
    lost: "It is lost.",
    changed: "It is not what it was, and is not read any more.",
    deleted: "It was deleted; this disk reads it on until it is closed.",
    none: "This disk needs none.",
  }[state];
  const tone = state === "ok" || state === "none" ? "good" : "bad";
  return (
    <section class="panel" data-tone={tone}>
      <h2>Source</h2>
      {state !== "none" && <p class="uri">{disk?.backing}</p>}
      <p>
        <span class="state" data-tone={tone}>
          {state === "ok" ? "well" : state}
        </span>{" "}
        {words}
      </p>
      {message !== undefined && message !== "" && <p class="hint">{message}</p>}
      {held > 0 && (
        <p class="bad-text">
          {held} {held === 1 ? "request" : "requests"} of its machine {held === 1 ? "waits" : "wait"} for it.
        </p>
      )}
    </section>
  );
}

function Clients({ watched }: { readonly watched: WatchedDisk }) {
  const clients = watched.clients.value;
  return (
    <section class="panel">
      <h2>Clients</h2>
      {clients.length === 0 ? (
        <p class="hint">Nobody is connected. A machine finds it at {watched.disk.value?.uri}</p>
      ) : (
        <table class="clients">
          <thead>
            <tr>
              <th scope="col">Since</th>
              <th scope="col">From</th>
              <th scope="col">Read</th>
              <th scope="col">Written</th>
              <th scope="col">Slow reads</th>
            </tr>
          </thead>
          <tbody>
            {clients.map(({ peer, since, readBytes, writtenBytes, readLatency }, index) => (
              <tr key={`${peer} ${since} ${index}`}>
                <td>{timeOfDay(since)}</td>
                <td>{peer === "unix" ? "this host" : peer}</td>
                <td>{bytes(readBytes)}</td>
                <td>{bytes(writtenBytes)}</td>
                <td>{latency(readLatency.p99Us)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
