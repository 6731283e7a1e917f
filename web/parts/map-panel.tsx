import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { CellModel } from "../map/cell-model.ts";
import { type Grid, gridFor, paintCells, paletteOf } from "../map/paint.ts";
import { centred, moved, type View, whole, zoomed } from "../map/view.ts";
import type { WatchedDisk } from "../state/watched-disk.ts";
import { bytes, percent } from "../words.ts";

const LEGEND = [
  ["local", "local"],
  ["zero", "known zero"],
  ["missing", "missing"],
  ["written", "written by the guest"],
  ["flight", "on its way"],
  ["waiting", "waited for"],
] as const;

/** Rows of the smallest cells. */
const ROWS = 24;
const ROWS_NARROW = 40;

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
      <Cells
        watched={watched}
        view={view}
        cursor={cursor}
        onPlace={setPlace}
        onZoom={zoom}
        onMove={(share) => show(moved(view, disk, share))}
        onAll={() => show(whole(disk))}
      />
      {!isWhole && (
        <Overview watched={watched} view={view} disk={disk} onPick={(place) => show(centred(view, disk, place))} />
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

interface CellsParts {
  readonly watched: WatchedDisk;
  readonly view: View;
  readonly cursor: number | undefined;
  readonly onPlace: (place: number | undefined) => void;
  readonly onZoom: (factor: number, at?: number) => void;
  readonly onMove: (share: number) => void;
  readonly onAll: () => void;
}

function Cells({ watched, view, cursor, onPlace, onZoom, onMove, onAll }: CellsParts) {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const width = useWidth(box);
  const model = watched.detail.value;
  const version = watched.version.value;
  const rows = width < 500 ? ROWS_NARROW : ROWS;
  const count = model?.count ?? 1;
  const grid = gridFor(width, count, rows);
  useEffect(() => {
    if (width === 0) return;
    const smallest = gridFor(width, 4096, rows);
    watched.setRoom(Math.min(4096, smallest.columns * Math.floor((rows * 11) / smallest.pitch)));
  }, [width, rows, watched]);
  useLayoutEffect(() => {
    if (canvas.current !== null && model !== undefined && width > 0) paint(canvas.current, model, grid, cursor);
  }, [model, version, width, cursor]);
  useScheme(() => {
    if (canvas.current !== null && model !== undefined) paint(canvas.current, model, grid, cursor);
  });

  const pointAt = (index: number | undefined): void => {
    onPlace(index === undefined || model === undefined ? undefined : model.startOf(index));
  };
  const cellAt = (event: MouseEvent): number | undefined => {
    const index = Math.floor(event.offsetY / grid.pitch) * grid.columns + Math.floor(event.offsetX / grid.pitch);
    return model !== undefined && index < model.count && event.offsetX < grid.columns * grid.pitch ? index : undefined;
  };
  const wheel = (event: WheelEvent): void => {
    event.preventDefault();
    const index = cellAt(event);
    if (event.shiftKey) onMove(Math.sign(event.deltaY + event.deltaX) * 0.25);
    else onZoom(event.deltaY > 0 ? 1.5 : 1 / 1.5, index === undefined ? undefined : model?.startOf(index));
  };
  const wheeled = useRef(wheel);
  wheeled.current = wheel;
  useEffect(() => {
    const element = canvas.current;
    const heard = (event: WheelEvent): void => {
      // Whoever only passes by scrolls the page.
      if (document.activeElement === box.current || event.ctrlKey) wheeled.current(event);
    };
    element?.addEventListener("wheel", heard, { passive: false });
    return () => element?.removeEventListener("wheel", heard);
  }, []);
  const keyed = (event: KeyboardEvent): void => {
    const steps: Readonly<Record<string, number>> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -grid.columns,
      ArrowDown: grid.columns,
    };
    const step = steps[event.key];
    if (step !== undefined) pointAt(Math.min(count - 1, Math.max(0, cursor === undefined ? 0 : cursor + step)));
    else if (event.key === "Home") onPlace(view.start);
    else if (event.key === "End") onPlace(view.start + view.length - 1);
    else if (event.key === "PageUp") onMove(-0.5);
    else if (event.key === "PageDown") onMove(0.5);
    else if (event.key === "+" || event.key === "=") onZoom(0.5);
    else if (event.key === "-") onZoom(2);
    else if (event.key === "0") onAll();
    else if (event.key === "Escape") pointAt(undefined);
    else return;
    event.preventDefault();
  };
  const total = watched.total.value;
  const all = Math.max(1, (total?.local ?? 0) + (total?.zero ?? 0) + (total?.missing ?? 0));
  const label =
    total === undefined
      ? "Map of the disk"
      : `Map of the disk: ${percent(total.local, all)} local, ${percent(total.zero, all)} known zero, ${percent(total.missing, all)} missing`;
  return (
    <div
      class="map-box"
      ref={box}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: the keys of the map are its own
      tabIndex={0}
      role="application"
      aria-roledescription="map"
      aria-label={label}
      onKeyDown={keyed}
    >
      <canvas
        ref={canvas}
        class="map"
        data-cells={count}
        data-columns={grid.columns}
        data-pitch={grid.pitch}
        onPointerMove={(event) => pointAt(cellAt(event))}
        onPointerLeave={() => pointAt(undefined)}
        onDblClick={(event) => {
          const index = cellAt(event);
          if (index !== undefined) onZoom(0.25, model?.startOf(index));
        }}
      />
    </div>
  );
}

function paint(canvas: HTMLCanvasElement, model: CellModel, grid: Grid, cursor: number | undefined): void {
  const width = grid.columns * grid.pitch;
  const height = Math.ceil(model.count / grid.columns) * grid.pitch;
  const ratio = devicePixelRatio;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  if (context === null) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  paintCells(context, model, grid, paletteOf(canvas), cursor);
}

interface OverviewParts {
  readonly watched: WatchedDisk;
  readonly view: View;
  readonly disk: number;
  readonly onPick: (place: number) => void;
}

/** All of the disk in one line, and which part of it is shown. */
function Overview({ watched, view, disk, onPick }: OverviewParts) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const model = watched.overview.value;
  const version = watched.version.value;
  useLayoutEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (canvas.current === null || context == null || model === undefined) return;
    canvas.current.width = model.count;
    const palette = paletteOf(canvas.current);
    for (let index = 0; index < model.count; index++) {
      const length = model.lengthOf(index);
      context.fillStyle = (model.missing[index] ?? 0) > 0 ? palette.outline : palette.zero;
      context.fillRect(index, 0, 1, 16);
      const height = ((model.local[index] ?? 0) / length) * 16;
      context.fillStyle = palette.local;
      context.fillRect(index, 16 - height, 1, height);
    }
  }, [model, version]);
  return (
    <div
      class="overview"
      aria-hidden="true"
      onClick={(event) => onPick((event.offsetX / event.currentTarget.clientWidth) * disk)}
    >
      <canvas ref={canvas} height={16} />
      <span style={{ left: `${(view.start / disk) * 100}%`, width: `max(3px, ${(view.length / disk) * 100}%)` }} />
    </div>
  );
}

/** How wide an element is, in CSS pixels; 0 at first. */
function useWidth(element: { readonly current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    if (element.current === null) return;
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry?.contentRect.width ?? 0)));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

/** Calls when the colours of the page change. */
function useScheme(act: () => void): void {
  const latest = useRef(act);
  latest.current = act;
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const heard = (): void => latest.current();
    query.addEventListener("change", heard);
    return () => query.removeEventListener("change", heard);
  }, []);
}
