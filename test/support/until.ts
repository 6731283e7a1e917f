/** Waiting for something that nobody tells of. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

const PATIENCE_MS = 300_000;
const LOOK_MS = 50;

/** Tries until something is so, and says what it is instead when that never comes. */
export async function until(what: () => Promise<boolean>, why: () => string = () => "it is not so"): Promise<void> {
  const giveUp = AbortSignal.timeout(PATIENCE_MS);
  while (!(await what())) {
    assert.ok(!giveUp.aborted, why());
    await sleep(LOOK_MS);
  }
}
