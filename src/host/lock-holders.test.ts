import assert from "node:assert/strict";
import { test } from "node:test";
import { parseLocks } from "./lock-holders.ts";

test("locks on bytes of one file, of either kind of table", () => {
  const table = [
    "1: POSIX  ADVISORY  WRITE 612 00:15:1210 0 EOF",
    "2: FLOCK  ADVISORY  WRITE 7 fe:00:2147092 0 EOF",
    "3: OFDLCK ADVISORY  READ -1 fe:00:2147092 100 101",
    "3: -> OFDLCK ADVISORY  WRITE -1 fe:00:2147092 201 201",
    "4: OFDLCK ADVISORY  READ  -1 fe:00:21470921 103 103",
    "5: POSIX  ADVISORY  READ  88 fe:00:2147092 7 EOF",
    "",
  ].join("\n");
  assert.deepEqual(parseLocks(table, "fe:00:2147092"), [
    { first: 100, last: 101 },
    { first: 7, last: Number.MAX_SAFE_INTEGER },
  ]);
  const fdinfo = "pos:\t0\nflags:\t02100002\nlock:\t1: OFDLCK ADVISORY  READ -1 fe:00:5 203 203\n";
  assert.deepEqual(parseLocks(fdinfo, "fe:00:5"), [{ first: 203, last: 203 }]);
  assert.deepEqual(parseLocks("", "fe:00:5"), []);
});
