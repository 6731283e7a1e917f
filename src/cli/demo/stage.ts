/** Where the demo tells its story: lines that fit into a terminal, and the panel below them while something goes on. */
import { printLines } from "../output.ts";
import { ProgressMeter } from "../progress.ts";
import { Panel } from "./panel.ts";

const COLUMNS = 79;
const INDENT = "   ";

export class Stage {
  readonly panel: Panel;
  readonly #isShown: boolean;

  constructor(isShown: boolean) {
    this.#isShown = isShown;
    this.panel = new Panel(isShown);
  }

  /** Begins a chapter. */
  title(number: number, text: string): void {
    this.#say("", ...wrapped(`${number}  ${text}`, INDENT.length));
  }

  /** Says what belongs to no chapter. */
  open(...sentences: readonly string[]): void {
    this.#say(...sentences.flatMap((sentence) => wrapped(sentence, 0)));
  }

  /** Says sentences, one after the other. */
  tell(...sentences: readonly string[]): void {
    this.#say(...sentences.flatMap((sentence) => wrapped(INDENT + sentence, INDENT.length)));
  }

  /** For something that has no panel. */
  meter(): ProgressMeter {
    return new ProgressMeter(this.#isShown, process.stdout, INDENT);
  }

  #say(...lines: string[]): void {
    this.panel.finish();
    if (this.#isShown) printLines(...lines);
  }
}

/** Breaks between words; a word that is longer than a line stays whole. */
export function wrapped(text: string, indent: number): string[] {
  const lines: string[] = [];
  let line = "";
  // Spaces that come together are no places to break.
  for (const word of text.split(/(?<=\S) (?=\S)/)) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (longer.length <= COLUMNS || line === "") line = longer;
    else {
      lines.push(line);
      line = " ".repeat(indent) + word;
    }
  }
  return [...lines, line];
}
