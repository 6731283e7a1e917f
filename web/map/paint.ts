/**
 * Draws cells on a canvas. What a cell is can be told by its shape too, not by its colour alone: local fills it from below, known zero is flat
 * and pale, missing is hollow; a corner is cut where a guest has written, a bar lies across what is on its way, and what is waited for is crossed out.
 */
import type { CellModel } from "./cell-model.ts";

export interface Palette {
  readonly local: string;
  readonly zero: string;
  readonly missing: string;
  readonly outline: string;
  readonly written: string;
  readonly flight: string;
  readonly waiting: string;
  readonly cursor: string;
}

/** The colours of the page, as its style says now. */
export function paletteOf(element: Element): Palette {
  const style = getComputedStyle(element);
  const colour = (name: string): string => style.getPropertyValue(`--map-${name}`).trim();
  return {
    local: colour("local"),
    zero: colour("zero"),
    missing: colour("missing"),
    outline: colour("outline"),
    written: colour("written"),
    flight: colour("flight"),
    waiting: colour("waiting"),
    cursor: colour("cursor"),
  };
}

export interface Grid {
  readonly columns: number;
  /** From one cell to the next, and the size of one, in CSS pixels. */
  readonly pitch: number;
  readonly size: number;
}

/** How cells are laid out: small ones where there are many, larger ones where there is room. */
export function gridFor(width: number, count: number, rows: number): Grid {
  const pitches = [32, 24, 18, 14, 11];
  const fits = (pitch: number): boolean => Math.floor(width / pitch) * Math.floor((rows * 11) / pitch) >= count;
  const pitch = pitches.find(fits) ?? (width < 500 ? 9 : 11);
  return { columns: Math.max(1, Math.floor(width / pitch)), pitch, size: pitch - 2 };
}

export function paintCells(
  context: CanvasRenderingContext2D,
  model: CellModel,
  { columns, pitch, size }: Grid,
  palette: Palette,
  cursor: number | undefined,
): void {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  for (let index = 0; index < model.count; index++) {
    const x = (index % columns) * pitch;
    const y = Math.floor(index / columns) * pitch;
    paintCell(context, model, index, { x, y, size }, palette);
  }
  if (cursor === undefined) return;
  context.strokeStyle = palette.cursor;
  context.lineWidth = 2;
  context.strokeRect((cursor % columns) * pitch, Math.floor(cursor / columns) * pitch, size, size);
}

interface Place {
  readonly x: number;
  readonly y: number;
  readonly size: number;
}

function paintCell(
  context: CanvasRenderingContext2D,
  model: CellModel,
  index: number,
  { x, y, size }: Place,
  palette: Palette,
): void {
  const length = model.lengthOf(index);
  const local = (model.local[index] ?? 0) / length;
  const missing = (model.missing[index] ?? 0) / length;
  context.fillStyle = missing > 0 ? palette.missing : palette.zero;
  context.fillRect(x, y, size, size);
  if (missing > 0) {
    context.strokeStyle = palette.outline;
    context.lineWidth = 1;
    context.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
  }
  if (local > 0) {
    // What is there is seen, and what lacks something is not full.
    const most = missing > 0 ? size - 2 : size;
    const height = Math.min(most, Math.max(1.5, local * size));
    context.fillStyle = palette.local;
    context.fillRect(x, y + size - height, size, height);
  }
  if (model.written[index] === 1) {
    context.fillStyle = palette.written;
    context.beginPath();
    context.moveTo(x + size * 0.2, y);
    context.lineTo(x + size, y);
    context.lineTo(x + size, y + size * 0.8);
    context.fill();
  }
  if (model.inFlight[index] === 1) {
    context.fillStyle = palette.flight;
    context.fillRect(x, y + size * 0.3, size, size * 0.4);
  }
  if (model.waiting[index] === 1) {
    context.fillStyle = palette.waiting;
    context.fillRect(x, y, size, size);
    context.strokeStyle = palette.missing;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x + 2, y + 2);
    context.lineTo(x + size - 2, y + size - 2);
    context.moveTo(x + size - 2, y + 2);
    context.lineTo(x + 2, y + size - 2);
    context.stroke();
  }
}
