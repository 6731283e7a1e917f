import assert from "node:assert/strict";
import { test } from "node:test";
import { nextToRun } from "./queue.ts";
import type { JobRecord } from "./records.ts";

function job(id: string, parts: Partial<JobRecord> = {}): JobRecord {
  const amounts = { offset: 0, length: 1024, localBytes: 0, missingBytes: 1024, copiedBytes: 0 };
  return { id, disk: `disk-${id}`, state: "created", priority: 0, createdAt: 0, ...amounts, ...parts };
}

function turns(jobs: readonly JobRecord[], maxStreams: number): string[] {
  return nextToRun(jobs, maxStreams).map(({ id }) => id);
}

test("the highest priority goes first, and then who has waited longest", () => {
  const jobs = [
    job("early", { createdAt: 3 }),
    job("low", { priority: -1 }),
    job("late, by a clock that was set back", { createdAt: 1 }),
    job("high", { priority: 5, createdAt: 9 }),
  ];
  assert.deepEqual(turns(jobs, 10), ["high", "early", "late, by a clock that was set back", "low"]);
  assert.deepEqual(turns(jobs, 2), ["high", "early"]);
});

test("what runs takes a place", () => {
  const jobs = [job("a", { state: "running" }), job("b"), job("c"), job("d", { state: "running" })];
  assert.deepEqual(turns(jobs, 3), ["b"]);
  assert.deepEqual(turns(jobs, 2), []);
  assert.deepEqual(turns(jobs, 1), []);
});

test("a group has one place, and all of it goes with it", () => {
  const jobs = [
    job("a", { group: "x", state: "running" }),
    job("b", { priority: 1 }),
    job("c", { group: "x" }),
    job("d", { group: "y" }),
    job("e", { group: "y" }),
  ];
  assert.deepEqual(turns(jobs, 1), ["c"]);
  assert.deepEqual(turns(jobs, 2), ["b", "c"]);
  assert.deepEqual(turns(jobs, 3), ["b", "c", "d", "e"]);
});

test("who waits for a source takes no place and gets no turn", () => {
  const reason = { code: "source-lost", message: "Connection refused" } as const;
  assert.deepEqual(turns([job("dead", { state: "waiting", reason }), job("b")], 1), ["b"]);
});

test("who has lost its turn stands in the queue again, who is paused or has ended does not", () => {
  const reason = { code: "queued", message: "The daemon was restarted" } as const;
  const jobs = [
    job("again", { state: "waiting", reason }),
    job("paused", { state: "paused" }),
    job("done", { state: "completed" }),
  ];
  assert.deepEqual(turns(jobs, 4), ["again"]);
});
