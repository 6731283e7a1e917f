import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { nativeCalls, nativeProblem, systemError } from "./native.ts";

const PATH = JSON.stringify(join(import.meta.dirname, "native.ts"));
const SAY = `import(${PATH}).then((m) => console.log(JSON.stringify([m.nativeCalls() !== undefined, m.nativeProblem()])))`;

const inProcess = (env: NodeJS.ProcessEnv) =>
  JSON.parse(execFileSync(process.execPath, ["--eval", SAY], { env: { ...process.env, ...env }, encoding: "utf8" }));

test("the native calls are there", () => {
  assert.ok(nativeCalls() !== undefined, nativeProblem());
  assert.equal(nativeProblem(), "");
});

test("they are there in a worker thread too", async () => {
  const worker = new Worker(
    `import(${PATH}).then((m) => require("node:worker_threads").parentPort.postMessage(m.nativeCalls()?.lseek(-1, 0, 0)))`,
    { eval: true },
  );
  const said = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
  assert.equal(said, -9, "EBADF");
});

test("STREAMDISK_NATIVE=off turns them off, and they say so", () => {
  assert.deepEqual(inProcess({ STREAMDISK_NATIVE: "off" }), [false, "STREAMDISK_NATIVE=off turns them off"]);
  assert.deepEqual(inProcess({ STREAMDISK_NATIVE: "" }), [true, ""]);
});

test("an errno becomes the error that node:fs would have thrown", () => {
  const error = systemError(-28, "fallocate");
  assert.deepEqual([error.code, error.errno, error.syscall], ["ENOSPC", -28, "fallocate"]);
  assert.match(error.message, /^ENOSPC: no space left on device, fallocate$/);
});
