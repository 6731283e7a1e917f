import assert from "node:assert/strict";
import { test } from "node:test";
import { stripVTControlCharacters } from "node:util";
import { GuestDiary } from "./guest-diary.ts";
import { type CellKind, PANEL_CELLS, Panel, type Scene } from "./panel.ts";
import { wrapped } from "./stage.ts";

const MOMENT = { done: 50, total: 100, rate: 10, eta: 5 };

function scene(lines: readonly string[], moment: Scene["moment"] = MOMENT): Scene {
  const kinds: readonly CellKind[] = ["local", "part", "missing", "zero"];
  return { lines, cells: Array.from({ length: PANEL_CELLS }, (_, index) => kinds[index % 4]!), moment };
}

class Screen {
  text = "";
  readonly isTTY: boolean;
  readonly columns: number;

  constructor(isTTY: boolean, columns: number) {
    this.isTTY = isTTY;
    this.columns = columns;
  }

  write(text: string): void {
    this.text += text;
  }
}

test("lines are broken between words, and go on below where they began", () => {
  const text = `1  ${"word ".repeat(30)}end`;
  const lines = wrapped(text, 3);
  assert.equal(lines.length, 3);
  assert(lines.every((line) => line.length <= 79));
  assert.match(lines[1] ?? "", /^ {3}word/);
  assert.equal(lines.map((line) => line.trim()).join(" "), text);
  assert.deepEqual(wrapped(`at ${"x".repeat(90)}`, 0), ["at", "x".repeat(90)]);
});

test("a panel is drawn over itself, in columns that stay, and leaves one line", () => {
  for (const columns of [80, 200, 50, 0]) {
    const screen = new Screen(true, columns);
    const panel = new Panel(true, screen);
    const many = Array.from({ length: 9 }, (_, index) => `beat ${index + 1} at 5 MiB: written, right`);
    const pictures = [[], many.slice(0, 2), [...many, "x".repeat(200)]].map((lines) => {
      screen.text = "";
      panel.show(scene(lines));
      return screen.text;
    });
    const [first = "", ...others] = pictures;
    const height = first.split("\n").length - 1;
    for (const picture of others) {
      assert(picture.startsWith(`\u001b[${height}A`));
      assert.equal(picture.split("\n").length - 1, height);
    }
    const drawn = stripVTControlCharacters(others.at(-1) ?? "").split("\n");
    assert(drawn.every((line) => line.length < Math.min(80, columns || 80)));
    if (columns !== 50) assert.match(drawn[6] ?? "", /^ {3}x{36} {2}\S{32}$/, "the newest line is the last");
    screen.text = "";
    panel.finish();
    assert.equal(
      screen.text.replace(`\u001b[${height}A\u001b[J`, ""),
      `   50%  50 B of 100 B  10 B/s  5 s left  guest: ${"x".repeat(200)}\n`,
    );
  }
});

test("without a terminal there is a line now and then, and none twice", () => {
  const screen = new Screen(false, 80);
  const panel = new Panel(true, screen);
  for (const beat of [1, 2, 3]) panel.show(scene([`beat ${beat} at 5 MiB: written, right`]));
  panel.finish();
  panel.show(scene(["beat 3 at 5 MiB: written, right"]));
  panel.finish();
  const lines = [1, 3].map((beat) => `   50%  50 B of 100 B  10 B/s  5 s left  guest: beat ${beat}\n`);
  assert.equal(screen.text, lines.join(""));
});

test("a diary has what the guest did, and nothing of what else is on a console", () => {
  const diary = new GuestDiary();
  for (const line of [
    "SeaBIOS",
    "[ 1.2] up there",
    "up",
    "beat 1 at 3 MiB: written, right",
    "look 7 at 1 MiB: sum right",
  ]) {
    diary.hear(line);
  }
  assert.deepEqual(
    [diary.isUp, diary.isOff, diary.wrong, diary.deeds],
    [true, false, undefined, { beats: 1, looks: 7 }],
  );
  diary.hear("wrong look 8");
  diary.hear("off");
  assert.deepEqual([diary.isOff, diary.wrong, diary.lines.length], [true, "wrong look 8", 5]);
});
