import { useState } from "preact/hooks";
import type { CellModel } from "../map/cell-model.ts";
import { centred, moved, type View, whole, zoomed } from "../map/view.ts";
import type { WatchedDisk } from "../state/watched-disk.ts";
import { bytes, percent } from "../words.ts";
import { MapCells } from "./map-cells.tsx";
import { MapOverview } from "./map-overview.tsx";

const LEGEND = [
  ["local", "local"],
  ["zero", "known zero"],
  ["missing", "missing"],
  ["written", "written by the guest"],
  ["flight", "on its way"],
  ["waiting", "waited for"],
] as const;

/** The map of the disk: all of it at first, and any part of it. */
export function MapPanel({ watched }: { readonly watched: WatchedDisk }) {
  const view = watched.view.value;
  const disk = watched.disk.value?.length ?? 0;
  /** Where in the disk one points. */
  const [place, setPlace] = useState<number>();
  const model = watched.detail.value;
  watched.version.value;
  if (view === undefined || disk === 0) return null;
  const cursor = model === undefined || place === undefined ? undefined : model.indexOf(place);
  const show = (next: View, at?: number): void => {
    setPlace(at);
    watched.show(next);
  };
  const zoom = (factor: number, at = place): void => {
    show(zoomed(view, disk, factor, at ?? view.start + view.length / 2, watched.room), at);
  };
  const total = watched.total.value;
  const isWhole = view.length >= disk;
  return (
    <section class="panel map-panel">
      <div class="map-head">
        <h2>Map</h2>
        <p class="map-range">
          {isWhole
            ? `all ${bytes(disk)}`
            : `${bytes(view.start)} to ${bytes(view.start + view.length)} of ${bytes(disk)}`}
          {model !== undefined && `, a cell is ${bytes(model.cellLength)}`}
        </p>
        <div class="map-buttons">
          <button type="button" aria-label="Earlier" disabled={isWhole} onClick={() => show(moved(view, disk, -0.5))}>
            ‹
          </button>
          <button type="button" aria-label="Later" disabled={isWhole} onClick={() => show(moved(view, disk, 0.5))}>
            ›
          </button>
          <button type="button" aria-label="Zoom out" disabled={isWhole} onClick={() => zoom(2)}>
            −
          </button>
          <button type="button" aria-label="Zoom in" onClick={() => zoom(0.5)}>
            +
          </button>
          <button type="button" disabled={isWhole} onClick={() => show(whole(disk))}>
            All
          </button>
        </div>
      </div>
      <MapCells
        watched={watched}
        view={view}
        cursor={cursor}
        onPlace={setPlace}
        onZoom={zoom}
        onMove={(share) => show(moved(view, disk, share))}
        onAll={() => show(whole(disk))}
      />
      {!isWhole && (
        <MapOverview watched={watched} view={view} disk={disk} onPick={(place) => show(centred(view, disk, place))} />
      )}
      <p class="map-told" aria-live="polite">
        {model !== undefined && cursor !== undefined
          ? cellInWords(model, cursor)
          : "Point at a cell, or use the arrow keys, + and −."}
      </p>
      <ul class="legend">
        {LEGEND.map(([kind, label]) => (
          <li key={kind}>
            <span class={`key key-${kind}`} aria-hidden="true" />
            {label}
            {total !== undefined && kind in total && <strong>{bytes(total[kind as keyof typeof total])}</strong>}
          </li>
        ))}
      </ul>
    </section>
  );
}

/** What a cell has. */
function cellInWords(model: CellModel, index: number): string {
  const length = model.lengthOf(index);
  const start = model.startOf(index);
  const local = model.local[index] ?? 0;
  const missing = model.missing[index] ?? 0;
  const parts = [
    [local, "local"],
    [length - local - missing, "known zero"],
    [missing, "missing"],
  ] as const;
  const shares = parts
    .filter(([part]) => part > length / 1000)
    .map(([part, name]) => `${percent(part, length)} ${name}`);
  if (model.written[index] === 1) shares.push("written by the guest");
  if (model.inFlight[index] === 1) shares.push("some of it on its way");
  if (model.waiting[index] === 1) shares.push("waited for by the guest");
  return `${bytes(start)} to ${bytes(start + length)}: ${shares.join(", ")}`;
}
