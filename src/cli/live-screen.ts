/**
 * A view that is drawn again and again at its place on a terminal, until its user has seen enough: `q` or Ctrl-C. It uses the screen that
 * terminals have beside the one with what was there before, and leaves its last picture on that one.
 */
import type { ReadStream, WriteStream } from "node:tty";
import { printable } from "./output.ts";

const ENTER = "\u001b[?1049h\u001b[?25l";
const LEAVE = "\u001b[?25h\u001b[?1049l";
const HOME = "\u001b[H";
const CLEAR_REST_OF_LINE = "\u001b[K";
const CLEAR_BELOW = "\u001b[J";
const CTRL_C = "\u0003";

/** Where it is drawn: a part of a terminal's stream. */
export type Screen = Pick<WriteStream, "write" | "columns" | "rows">;
/** Where its user types. */
export type Keys = Pick<ReadStream, "isTTY" | "setRawMode" | "on" | "off" | "resume" | "pause">;

export class LiveScreen implements Disposable {
  readonly #screen: Screen;
  readonly #keys: Keys;
  readonly #over = new AbortController();
  #last: readonly string[] = [];

  constructor(screen: Screen = process.stdout, keys: Keys = process.stdin) {
    this.#screen = screen;
    this.#keys = keys;
    if (keys.isTTY) {
      // Ctrl-C comes as a key then.
      keys.setRawMode(true);
      keys.on("data", this.#typed);
      keys.resume();
    }
    screen.write(ENTER);
  }

  /** Aborted when its user has seen enough. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  readonly #typed = (key: Buffer): void => {
    if (["q", "Q", CTRL_C].includes(key.toString("latin1"))) this.#over.abort();
  };

  /**
   * Draws lines in place of those before, as far as there is room.
   *
   * @param foot below them, while it is drawn
   */
  draw(lines: readonly string[], foot: string): void {
    const { columns = 80, rows = 24 } = this.#screen;
    this.#last = lines;
    const shown = [...lines.slice(0, rows - 3), "", foot].map((line) => printable(line).slice(0, columns));
    this.#screen.write(HOME + shown.map((line) => `${line}${CLEAR_REST_OF_LINE}\r\n`).join("") + CLEAR_BELOW);
  }

  [Symbol.dispose](): void {
    if (this.#keys.isTTY) {
      this.#keys.off("data", this.#typed);
      this.#keys.setRawMode(false);
      this.#keys.pause();
    }
    this.#screen.write(LEAVE);
    for (const line of this.#last) this.#screen.write(`${printable(line)}\n`);
  }
}
