import assert from "node:assert/strict";
import { test } from "node:test";
import { deviceNumbers } from "./block-device.ts";

test("device numbers, small and large", () => {
  assert.deepEqual(deviceNumbers(65_024), [254, 0]);
  assert.deepEqual(deviceNumbers(2049), [8, 1]);
  assert.deepEqual(deviceNumbers(1_114_924), [259, 300]);
  assert.deepEqual(deviceNumbers(316_687_141_520_811), [0x12345, 0x6789ab]);
});
