import { useLayoutEffect, useRef } from "preact/hooks";
import { paletteOf } from "../map/paint.ts";
import type { View } from "../map/view.ts";
import type { WatchedDisk } from "../state/watched-disk.ts";

interface OverviewParts {
  readonly watched: WatchedDisk;
  readonly view: View;
  readonly disk: number;
  readonly onPick: (place: number) => void;
}

/** All of the disk in one line, and which part of it is shown. */
export function MapOverview({ watched, view, disk, onPick }: OverviewParts) {
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
