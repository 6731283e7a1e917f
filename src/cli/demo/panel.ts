/**
 * What goes on, while it goes on: the guest's console beside the map of its disk, drawn again and again at the same place of a terminal. Where
 * there is none, a line every few seconds.
 */
import { figures, type MeterScreen, type Moment, speaksUtf8 } from "../progress.ts";

export interface Scene {
  /** Of the guest's console, the last ones. */
  readonly lines: readonly string[];
  /** One kind a cell. */
  readonly cells: readonly CellKind[];
  readonly moment: Moment;
}

export type CellKind = "local" | "part" | "missing" | "zero";

const ROWS = 6;
const CELLS_OF_ROW = 32;
/** How many cells it has room for. */
export const PANEL_CELLS: number = ROWS * CELLS_OF_ROW;
const CONSOLE_COLUMNS = 36;
const INDENT = "   ";
const LINE_MS = 5000;
const UTF8 = { local: "█", part: "▒", missing: "░", zero: "·" };
const ASCII = { local: "#", part: "+", missing: "-", zero: "." };

export class Panel {
  readonly #isShown: boolean;
  readonly #screen: MeterScreen;
  readonly #glyphs: Readonly<Record<CellKind, string>>;
  #last: Scene | undefined;
  #drawn = 0;
  #saidAt = Number.NEGATIVE_INFINITY;
  #said = "";

  constructor(isShown: boolean, screen: MeterScreen = process.stdout) {
    this.#isShown = isShown;
    this.#screen = screen;
    this.#glyphs = speaksUtf8() ? UTF8 : ASCII;
  }

  /** Whether anybody sees the cells of a scene. */
  get showsCells(): boolean {
    return this.#isShown && this.#screen.isTTY === true;
  }

  show(scene: Scene): void {
    this.#last = scene;
    if (!this.#isShown) return;
    if (this.showsCells) {
      this.#draw(scene);
      return;
    }
    const now = performance.now();
    if (now - this.#saidAt < LINE_MS) return;
    this.#saidAt = now;
    this.#say(scene);
  }

  /** Leaves how it is as one line. */
  finish(): void {
    if (!this.#isShown || this.#last === undefined) return;
    this.clear();
    this.#say(this.#last);
    this.#last = undefined;
  }

  /** Takes the picture away. */
  clear(): void {
    if (this.#drawn > 0) this.#screen.write(`\u001b[${this.#drawn}A\u001b[J`);
    this.#drawn = 0;
  }

  #say({ lines, moment }: Scene): void {
    const guest = lines.at(-1)?.split(" at ")[0];
    const line = `${INDENT}${figures(moment).trim()}${guest === undefined ? "" : `  guest: ${guest}`}\n`;
    if (line !== this.#said) this.#screen.write(line);
    this.#said = line;
  }

  /** Writes all of it at once, over what was there: nothing flickers. */
  #draw({ lines, cells, moment }: Scene): void {
    const { local, part, missing, zero } = this.#glyphs;
    const rows = Array.from({ length: ROWS }, (_, row) => {
      const said = lines.slice(-ROWS)[row] ?? "";
      const drawn = cells.slice(row * CELLS_OF_ROW, (row + 1) * CELLS_OF_ROW).map((kind) => this.#glyphs[kind]);
      return `${said.slice(0, CONSOLE_COLUMNS).padEnd(CONSOLE_COLUMNS)}  ${drawn.join("")}`;
    });
    const head = `${"The guest's console".padEnd(CONSOLE_COLUMNS)}  Its disk: ${local}${part} here ${missing} not yet ${zero} zero`;
    const columns = this.#screen.columns || 80;
    const text = [head, ...rows, figures(moment).trim()]
      .map((line) => `${(INDENT + line).slice(0, columns - 1)}\u001b[K\n`)
      .join("");
    this.#screen.write((this.#drawn > 0 ? `\u001b[${this.#drawn}A` : "") + text);
    this.#drawn = ROWS + 2;
  }
}
