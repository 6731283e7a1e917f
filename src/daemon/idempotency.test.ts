import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import type { Answer } from "./http-problem.ts";
import { IdempotentAnswers } from "./idempotency.ts";

function answer(body: string): Answer {
  return { status: 200, headers: {}, body, retryable: false };
}

test("the oldest answers go when there are too many, those under way never", async () => {
  const answers = new IdempotentAnswers(new ManualClock());
  const gate = Promise.withResolvers<Answer>();
  const first = answers.answer("first", "r", () => gate.promise);
  for (let i = 0; i < 1500; i++) await answers.answer(`k${i}`, "r", async () => answer(String(i)));
  const again = async (key: string) => (await answers.answer(key, "r", async () => answer("anew"))).body;
  assert.equal(await again("k1499"), "1499");
  assert.equal(await again("k0"), "anew");
  gate.resolve(answer("late"));
  assert.equal((await first).body, "late");
  assert.equal(await again("first"), "late");
});

test("a thousand under way are enough", async () => {
  const answers = new IdempotentAnswers(new ManualClock());
  for (let i = 0; i < 1000; i++) void answers.answer(`k${i}`, "r", () => new Promise(() => {}));
  assert.throws(() => answers.answer("one more", "r", async () => answer("")), { code: "invalid-argument" });
  assert.throws(() => answers.answer("one-more", "r", async () => answer("")), { status: 503, code: "in-use" });
});

test("large answers leave room for no more than a few", async () => {
  const answers = new IdempotentAnswers(new ManualClock());
  const large = "x".repeat(1024 * 1024);
  for (let i = 0; i < 6; i++) await answers.answer(`k${i}`, "r", async () => answer(large + i));
  let acted = 0;
  for (let i = 5; i >= 0; i--) {
    await answers.answer(`k${i}`, "r", async () => {
      acted += 1;
      return answer("");
    });
  }
  assert.ok(acted >= 2 && acted <= 4, `${acted} were forgotten`);
});

test("what fails unforeseen may be tried again", async () => {
  const answers = new IdempotentAnswers(new ManualClock());
  await assert.rejects(
    answers.answer("k", "r", () => Promise.reject(new TypeError("bug"))),
    TypeError,
  );
  assert.equal((await answers.answer("k", "r", async () => answer("well"))).body, "well");
});
