import assert from "node:assert/strict";
import { test } from "node:test";
import { Flusher } from "./flusher.ts";

/** Syncs that end when the test says so. */
class Syncs {
  readonly #open: { resolve: () => void; reject: (error: Error) => void }[] = [];
  begun = 0;

  readonly sync = (): Promise<void> => {
    this.begun++;
    return new Promise((resolve, reject) => this.#open.push({ resolve, reject }));
  };

  end(error?: Error): void {
    const sync = this.#open.shift();
    if (error) sync?.reject(error);
    else sync?.resolve();
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test("without a change there is nothing to flush", async () => {
  const syncs = new Syncs();
  await new Flusher(syncs.sync, false).flush();
  assert.equal(syncs.begun, 0);
});

test("a flush without a change waits for the one under way", async () => {
  const syncs = new Syncs();
  const flusher = new Flusher(syncs.sync, true);
  const first = flusher.flush();
  await turn();
  let second = false;
  const then = flusher.flush().then(() => {
    second = true;
  });
  await turn();
  assert.deepEqual([syncs.begun, second], [1, false]);
  syncs.end();
  await Promise.all([first, then]);
  assert.equal(syncs.begun, 1);
});

test("all who ask while a flush is under way share the next one", async () => {
  const syncs = new Syncs();
  const flusher = new Flusher(syncs.sync, true);
  const first = flusher.flush();
  await turn();
  flusher.noteChange();
  const others = [flusher.flush(), flusher.flush()];
  flusher.noteChange();
  others.push(flusher.flush());
  await turn();
  assert.equal(syncs.begun, 1, "one at a time");
  syncs.end();
  await first;
  await turn();
  assert.equal(syncs.begun, 2);
  syncs.end();
  await Promise.all(others);
  await flusher.flush();
  assert.equal(syncs.begun, 2, "the change before the second began is in it");
});

test("after a failure all fail, those that waited too, and nothing is tried again", async () => {
  const syncs = new Syncs();
  const flusher = new Flusher(syncs.sync, true);
  const first = flusher.flush();
  await turn();
  flusher.noteChange();
  const second = flusher.flush();
  const refused = [assert.rejects(first, /disk/), assert.rejects(second, /disk/)];
  syncs.end(new Error("the disk is gone"));
  await Promise.all(refused);
  flusher.noteChange();
  await assert.rejects(flusher.flush(), /disk/);
  assert.equal(syncs.begun, 1);
});
