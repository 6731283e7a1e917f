import assert from "node:assert/strict";
import { test } from "node:test";
import { claimName } from "./name-claim.ts";

test("a name is had once, and again when it was given up", async () => {
  const name = `test-${process.pid}`;
  const first = await claimName(name);
  assert.ok(first);
  assert.equal(await claimName(name), undefined);
  const other = await claimName(`${name}-other`);
  assert.ok(other);
  await first.release();
  const again = await claimName(name);
  assert.ok(again);
  await Promise.all([again.release(), other.release()]);
});
