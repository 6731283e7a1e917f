import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { CellModel } from "../map/cell-model.ts";
import { type Grid, gridFor, paintCells, paletteOf } from "../map/paint.ts";
import type { View } from "../map/view.ts";
import type { WatchedDisk } from "../state/watched-disk.ts";
import { percent } from "../words.ts";

/** Rows of the smallest cells. */
const ROWS = 24;
const ROWS_NARROW = 40;

interface CellsParts {
  readonly watched: WatchedDisk;
  readonly view: View;
  readonly cursor: number | undefined;
  readonly onPlace: (place: number | undefined) => void;
  readonly onZoom: (factor: number, at?: number) => void;
  readonly onMove: (share: number) => void;
  readonly onAll: () => void;
}

/** The cells of the part that is shown: to point at, zoom and move, by pointer, wheel and keys. */
export function MapCells({ watched, view, cursor, onPlace, onZoom, onMove, onAll }: CellsParts) {
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
