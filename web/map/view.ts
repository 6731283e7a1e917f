/** Which part of a disk the map shows: zoomed and moved, and never beyond the disk. Pure; bytes. */

export interface View {
  readonly start: number;
  readonly length: number;
}

/** What a cell should not be finer than: a cluster, as most images have them. */
const LEAST_CELL = 64 * 1024;

export function whole(disk: number): View {
  return { start: 0, length: disk };
}

/** How many cells a part of a disk is shown in, where there is room for so many. */
export function cellsFor({ length }: View, room: number): number {
  return Math.max(1, Math.min(room, 4096, Math.ceil(length / LEAST_CELL)));
}

/**
 * Zooms so that what lies at `at` stays where it is.
 *
 * @param factor below 1 shows less of the disk
 */
export function zoomed(view: View, disk: number, factor: number, at: number, room: number): View {
  const least = Math.min(disk, room * LEAST_CELL);
  const length = Math.min(disk, Math.max(least, view.length * factor));
  const before = view.length === 0 ? 0 : (at - view.start) / view.length;
  return inside(Math.round(at - before * length), length, disk);
}

/** @param share of what is shown: 1 is a whole page onwards */
export function moved({ start, length }: View, disk: number, share: number): View {
  return inside(Math.round(start + length * share), length, disk);
}

/** The same much, with a place in its middle. */
export function centred({ length }: View, disk: number, at: number): View {
  return inside(Math.round(at - length / 2), length, disk);
}

function inside(start: number, length: number, disk: number): View {
  const whole = Math.round(length);
  return { start: Math.min(Math.max(0, start), Math.max(0, disk - whole)), length: whole };
}
