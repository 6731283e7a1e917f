import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryStore } from "../../test/support/memory-store.ts";
import type { JobRecord } from "../jobs/index.ts";
import { EventHub } from "./event-hub.ts";
import { JobStories } from "./job-stories.ts";
import { noLog } from "./log.ts";

const JOB: JobRecord = {
  id: "j1",
  disk: "vm1@1",
  state: "created",
  priority: 0,
  base: { reference: "/images/base.raw", format: "raw" },
  offset: 0,
  length: 100,
  localBytes: 0,
  missingBytes: 100,
  copiedBytes: 0,
  createdAt: 1,
};

test("what is told of a stream says what happened, where, why, and what happens next", async () => {
  const store = new MemoryStore();
  const stories = new JobStories(new EventHub(store, noLog, { events: 100, jobs: 100 }));
  const paused = { code: "paused", message: "It was paused" } as const;
  const lost = { code: "source-lost", message: "No route", offset: 64, length: 8 } as const;
  const there = { ...JOB, offset: 40, missingBytes: 60, copiedBytes: 40, startedAt: 2 };
  await stories.created("vm1", JOB, false);
  await stories.changed("vm1", JOB, { ...JOB, state: "running" });
  await stories.changed("vm1", there, { ...there, state: "waiting", reason: lost });
  await stories.changed("vm1", { ...there, reason: paused }, { ...there, state: "running" });
  await stories.changed("vm1", there, { ...there, state: "completed", offset: 100, missingBytes: 0 });
  const told = (await store.events({ limit: 10 })).map(({ message, offset, length }) => [message, offset, length]);
  const tail = "and it ends by itself when none is";
  assert.deepEqual(told, [
    [
      "A stream of 'vm1' down to '/images/base.raw' was ordered (100 bytes are missing); as many run as may run at once: its turn comes",
      undefined,
      undefined,
    ],
    [`The stream of 'vm1' begins at byte 0: 100 bytes are missing, ${tail}`, 0, 100],
    ["The stream of 'vm1' waits: No route; local data is served on, and it goes on by itself", 64, 8],
    [`The stream of 'vm1' goes on at byte 40 after a wait (It was paused): 60 bytes are missing, ${tail}`, 40, 60],
    [
      "The stream of 'vm1' is complete, since nothing is missing that it was to fetch: 40 bytes were fetched; the disk lies over the base of the stream",
      undefined,
      undefined,
    ],
  ]);
});
