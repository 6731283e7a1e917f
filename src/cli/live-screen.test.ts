import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { type Keys, LiveScreen } from "./live-screen.ts";

class Terminal extends EventEmitter {
  readonly isTTY = true;
  readonly columns = 12;
  readonly rows = 6;
  raw = false;
  text = "";

  write(text: string): boolean {
    this.text += text;
    return true;
  }
  setRawMode(raw: boolean): void {
    this.raw = raw;
  }
  resume(): void {}
  pause(): void {}
}

function begin() {
  const terminal = new Terminal();
  return { terminal, live: new LiveScreen(terminal, terminal as unknown as Keys) };
}

test("lines are drawn as far as there is room, harmless, and the last stay", () => {
  const { terminal, live } = begin();
  live.draw(["first \u001b[31m line", "2", "3", "4"], "foot");
  const frame = terminal.text.split("\u001b[H")[1] ?? "";
  assert.deepEqual(frame.split("\r\n"), [
    "first \\x1b[3\u001b[K",
    "2\u001b[K",
    "3\u001b[K",
    "\u001b[K",
    "foot\u001b[K",
    "\u001b[J",
  ]);
  live.draw(["a", "b"], "foot");
  live[Symbol.dispose]();
  assert.ok(terminal.text.endsWith("\u001b[?1049la\nb\n"));
});

for (const key of ["q", "Q", "\u0003"]) {
  test(`${JSON.stringify(key)} ends it, and other keys do not`, () => {
    const { terminal, live } = begin();
    assert.equal(terminal.raw, true);
    terminal.emit("data", Buffer.from("x"));
    assert.equal(live.over.aborted, false);
    terminal.emit("data", Buffer.from(key));
    assert.equal(live.over.aborted, true);
    live[Symbol.dispose]();
    assert.deepEqual([terminal.raw, terminal.listenerCount("data")], [false, 0]);
  });
}
