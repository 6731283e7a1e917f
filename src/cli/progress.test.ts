import assert from "node:assert/strict";
import { test } from "node:test";
import { figures, type MeterScreen, ProgressMeter } from "./progress.ts";

const MIB = 1024 ** 2;

function screen(isTTY: boolean, columns = 120): MeterScreen & { text: string } {
  return {
    text: "",
    isTTY,
    columns,
    write(text: string) {
      this.text += text;
    },
  };
}

test("figures say how much, how fast and how long", () => {
  assert.equal(
    figures({ done: 120 * MIB, total: 240 * MIB, rate: 50 * MIB, eta: 2.4 }),
    " 50%  120 MiB of 240 MiB  50 MiB/s  2 s left",
  );
  assert.equal(figures({ done: 240 * MIB - 1, total: 240 * MIB, rate: 1, eta: 0.1 }).slice(0, 4), " 99%");
  assert.equal(figures({ done: 240 * MIB, total: 240 * MIB, rate: 1, eta: 0 }), "100%  240 MiB of 240 MiB");
  assert.equal(figures({ done: 0, total: 0 }), "100%  0 B of 0 B");
  assert.match(figures({ done: 1, total: 2, rate: 9, note: "waiting" }), / 50% {2}1 B of 2 B {2}waiting$/);
});

test("a terminal gets a bar that fits, redraws itself and stays at the end", () => {
  const out = screen(true, 50);
  const meter = new ProgressMeter(undefined, out);
  meter.update({ done: MIB, total: 4 * MIB, rate: MIB, eta: 3 });
  meter.update({ done: 2 * MIB, total: 4 * MIB });
  meter.update({ done: 4 * MIB, total: 4 * MIB });
  meter.finish();
  const frames = out.text.split("\r\u001b[K").slice(1);
  assert.equal(frames.length, 2, "what comes at once is drawn once, and the end is drawn");
  for (const frame of frames) assert(frame.trimEnd().length <= 49, frame);
  assert.match(frames[1] ?? "", /^[█#]{30} 100%.*\n$/);
});

test("a pipe gets nothing, or lines where they are asked for", () => {
  const quiet = screen(false);
  const silent = new ProgressMeter(undefined, quiet);
  silent.update({ done: 1, total: 2 });
  silent.finish();
  assert.equal(quiet.text, "");

  const lines = screen(false);
  const meter = new ProgressMeter(true, lines);
  meter.update({ done: 1, total: 2 });
  meter.update({ done: 2, total: 2 });
  meter.finish();
  assert.equal(lines.text, " 50%  1 B of 2 B\n100%  2 B of 2 B\n");
});

test("--no-progress is silent on a terminal too", () => {
  const out = screen(true);
  const meter = new ProgressMeter(false, out);
  meter.update({ done: 1, total: 2 });
  meter.clear();
  meter.finish();
  assert.equal(out.text, "");
});
