import assert from "node:assert/strict";
import { test } from "node:test";
import { groupId } from "./group.ts";

test("a group is found by name or number", async () => {
  assert.equal(await groupId("root"), 0);
  assert.equal(await groupId("1234"), 1234);
  assert.equal(await groupId(7), 7);
  await assert.rejects(groupId("no such group"), { code: "not-found", message: /'no such group'.*give its number/ });
});
