import assert from "node:assert/strict";
import { test } from "node:test";
import { ENDED_STATES, hasEnded, type JobAct, jobAfter, nextState, UNFINISHED_STATES } from "./life-cycle.ts";
import type { JobRecord } from "./records.ts";

const ACTS: readonly JobAct[] = ["run", "wait", "pause", "resume", "complete", "cancel", "fail"];
const JOB: JobRecord = {
  id: "j1",
  disk: "d1",
  state: "created",
  priority: 0,
  offset: 0,
  length: 1024,
  localBytes: 0,
  missingBytes: 1024,
  copiedBytes: 0,
  createdAt: 10,
};

test("a job goes from its order to its end", () => {
  const queued = { ...JOB, reason: { code: "queued", message: "4 streams run already" } } as const;
  const running = jobAfter(queued, "run", 20);
  assert.deepEqual(running, { ...JOB, state: "running", startedAt: 20 });
  const lost = { code: "source-lost", message: "Connection refused", offset: 512, length: 512 } as const;
  const waiting = jobAfter(running as JobRecord, "wait", 30, lost);
  assert.deepEqual(waiting, { ...JOB, state: "waiting", startedAt: 20, reason: lost });
  const again = jobAfter(waiting as JobRecord, "run", 40);
  assert.deepEqual(again, running);
  assert.deepEqual(jobAfter(again as JobRecord, "complete", 50), { ...running, state: "completed", endedAt: 50 });
});

test("a job that has ended stays as it is", () => {
  for (const state of ENDED_STATES) {
    assert.equal(hasEnded({ state }), true);
    for (const act of ACTS) assert.equal(jobAfter({ ...JOB, state }, act, 60), undefined, `${act} in ${state}`);
  }
});

test("whatever has not ended can be cancelled and can fail", () => {
  for (const state of UNFINISHED_STATES) {
    assert.equal(hasEnded({ state }), false);
    assert.equal(nextState(state, "cancel"), "cancelled");
    assert.equal(nextState(state, "fail"), "failed");
  }
});

test("a paused job runs only after somebody has resumed it", () => {
  assert.equal(nextState("paused", "run"), undefined);
  assert.equal(nextState("paused", "wait"), undefined);
  assert.equal(nextState("paused", "resume"), "waiting");
  assert.equal(nextState("running", "resume"), undefined);
});

test("only what runs can be completed", () => {
  for (const state of ["created", "paused", "waiting"] as const) assert.equal(nextState(state, "complete"), undefined);
});
