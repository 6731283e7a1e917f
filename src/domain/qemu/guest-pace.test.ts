import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { GuestPace, paceByGuest, SAMPLE_MS } from "./guest-pace.ts";

const MIB = 2 ** 20;
const WINDOW = 16 * MIB;

/** A guest whose requests take as long as `latency` says for what the stream may have under way. */
function runGuest(rounds: number, latency: (underWay: number, round: number) => number | undefined): number[] {
  const pace = new GuestPace();
  let [operations, milliseconds, ceiling] = [100, 50, WINDOW];
  pace.sample({ operations, milliseconds }, WINDOW);
  return Array.from({ length: rounds }, (_, round) => {
    const each = latency(ceiling, round);
    operations += each === undefined ? 0 : 50;
    milliseconds += each === undefined ? 0 : 50 * each;
    ceiling = pace.sample({ operations, milliseconds }, WINDOW) ?? WINDOW;
    return ceiling / MIB;
  });
}

test("a guest that does nothing, or is well, leaves the stream all that it can do, but for a moment each minute", () => {
  assert.deepEqual(
    runGuest(50, () => undefined),
    new Array(50).fill(16),
  );
  const well = runGuest(260, (_, round) => (round % 2 === 0 ? 0.3 : 0.5));
  assert.deepEqual(
    well.flatMap((ceiling, round) => (ceiling < 16 ? [[round, ceiling]] : [])),
    [
      [0, 1],
      [121, 1],
      [242, 1],
    ],
  );
});

test("what the guest waits for because of the stream is taken from the stream, and given back when the guest rests", () => {
  // Half a millisecond for each MiB that is under way.
  const ceilings = runGuest(62, (underWay, round) => (round < 60 ? 0.1 + underWay / MIB / 2 : undefined));
  // Calm is measured, then each half second shows what the one before has done.
  assert.deepEqual(ceilings.slice(0, 6), [1, 16, 1, 8, 1, 4]);
  const later = ceilings.slice(8, 60);
  assert.ok(later.every((ceiling) => ceiling < 4.5) && later.some((ceiling) => ceiling > 2), `${ceilings}`);
  assert.deepEqual(ceilings.slice(60), [16, 16]);
});

test("a guest that waits for something else costs the stream a moment now and then", () => {
  // It reads what is far away from the fourth round on, whatever the stream does.
  const ceilings = runGuest(60, (_, round) => (round < 3 ? 0.4 : 20));
  assert.deepEqual(ceilings.slice(0, 5), [1, 16, 16, 1, 16]);
  assert.ok(ceilings.filter((one) => one < 16).length <= 4, `${ceilings}`);
});

test("a stream is paced twice a second until it ends, also by a QEMU that does not answer", async () => {
  const clock = new ManualClock();
  const over = new AbortController();
  const ceilings: (number | undefined)[] = [];
  const answers = [{ operations: 0, milliseconds: 0 }, undefined, { operations: 100, milliseconds: 50 }];
  let asked = 0;
  const look = async () => {
    const answer = answers[asked++];
    if (answer === undefined && asked === 4) throw new Error("no answer");
    return answer;
  };
  const stream = { window: WINDOW, setCeiling: (bytes: number | undefined) => void ceilings.push(bytes) };
  const pacing = paceByGuest(stream, { look, clock, signal: over.signal });
  await clock.advance(3.5 * SAMPLE_MS);
  over.abort();
  await pacing;
  assert.equal(asked, 4);
  assert.deepEqual(ceilings, [undefined, undefined, MIB, undefined]);
});
