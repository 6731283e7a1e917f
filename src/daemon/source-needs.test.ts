import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { EventHub } from "./event-hub.ts";
import { noLog } from "./log.ts";
import { SourceNeeds } from "./source-needs.ts";

function setUp() {
  const store = new MemoryStore();
  const events = new EventHub(store, noLog, { events: 100, jobs: 1 });
  const free = async () => {
    await events.settled();
    return (await store.events({ limit: 100 })).map(({ source }) => source);
  };
  return { needs: new SourceNeeds(events), free };
}

test("a place is free when the last has left it, and that is told once", async () => {
  const { needs, free } = setUp();
  needs.hold("a", ["x"]);
  needs.hold("b", ["x"]);
  await needs.learn("a", ["x", "y"]);
  await needs.learn("a", []);
  assert.deepEqual(await free(), ["y"]);
  await needs.release("b");
  await needs.learn("b", ["x"]);
  await needs.release("a");
  assert.deepEqual(await free(), ["y", "x"]);
});

test("none is free while it is not known what somebody needs, or when it was only tried", async () => {
  const { needs, free } = setUp();
  needs.hold("a", ["x", "y"]);
  needs.hold("b", undefined);
  await needs.release("a");
  assert.deepEqual(await free(), []);
  await needs.learn("b", ["y"]);
  assert.deepEqual(await free(), ["x"]);
  needs.hold("c", ["z"]);
  needs.forget("c");
  await needs.learn("b", []);
  assert.deepEqual(await free(), ["x", "y"]);
  // It had left that before a restart.
  needs.hold("d", ["w"]);
  await needs.learn("d", []);
  assert.deepEqual(await free(), ["x", "y"]);
});

test("what was left before a restart is told after it, when it was not told before", async () => {
  const { needs, free } = setUp();
  needs.hold("a", ["x"], ["x", "y"]);
  needs.hold("b", undefined, []);
  needs.hold("c", ["z"], ["z"]);
  assert.equal(await needs.learn("a", ["x"]), true);
  assert.deepEqual(await free(), ["y"]);
  needs.hold("d", undefined);
  assert.equal(await needs.learn("c", []), false, "it is not to be remembered before it is told");
  assert.equal(await needs.learn("d", []), true);
  assert.deepEqual(await free(), ["y", "z"]);
});
