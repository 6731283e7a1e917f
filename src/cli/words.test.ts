import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { splitWords } from "./words.ts";

test("words are split as a shell does", () => {
  const texts = [
    "-m 1G  -smp 2",
    " -append 'console=ttyS0 quiet' ",
    `-name "a \\"b\\" c" ''`,
    "a\\ b'c'\"d\" e",
    "'it'\\''s' \"it's\"",
    "-device virtio-net,netdev=n0\n-netdev user,id=n0",
    `"\\a" "\\\\"`,
    "",
    "   ",
  ];
  for (const text of texts) {
    const { stdout } = spawnSync("sh", ["-c", `printf '%s\\0' ${text.replaceAll("\n", " ")}`], { encoding: "utf8" });
    // printf without words prints its format once.
    const expected = text.trim() === "" ? [] : stdout.split("\0").slice(0, -1);
    assert.deepEqual(splitWords(text), expected, text);
  }
});

test("nothing of a word is done by a shell", () => {
  assert.deepEqual(splitWords("$HOME `id` $(id) * ; id"), ["$HOME", "`id`", "$(id)", "*", ";", "id"]);
});

test("what does not end is refused", () => {
  for (const text of ["'a", 'a "b', "a\\"]) assert.throws(() => splitWords(text), { code: "invalid-argument" }, text);
});
