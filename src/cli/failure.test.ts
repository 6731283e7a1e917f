import assert from "node:assert/strict";
import { test } from "node:test";
import { CommanderError } from "commander";
import { StreamdiskError } from "../errors/index.ts";
import { failureOf } from "./failure.ts";
import { Interrupted, interruptible } from "./interrupt.ts";
import { printable } from "./output.ts";

test("an error of the library has its message and its row's exit code", () => {
  assert.deepEqual(failureOf(new StreamdiskError("in-use", "Image 'a' is in use")), {
    message: "Image 'a' is in use",
    exit: 75,
  });
});

test("commander's errors are wrong usage, in one sentence", () => {
  const error = new CommanderError(
    1,
    "commander.unknownCommand",
    "error: unknown command 'inof'\n(Did you mean info?)",
  );
  assert.deepEqual(failureOf(error), { message: "Unknown command 'inof' (Did you mean info?)", exit: 64 });
  assert.deepEqual(failureOf(new CommanderError(0, "commander.helpDisplayed", "x")), { message: undefined, exit: 0 });
});

test("anything else is an error of the program, and says so", () => {
  const { message, exit } = failureOf(new TypeError("x is not a function"));
  assert.match(message ?? "", /Internal error: x is not a function/);
  assert.equal(exit, 70);
});

test("an interruption is found behind what it caused", () => {
  const interrupted = new Interrupted("SIGTERM");
  assert.equal(failureOf(interrupted).exit, 143);
  assert.equal(failureOf(new Error("copy stopped", { cause: interrupted })).exit, 143);
  assert.equal(failureOf(new Interrupted("SIGINT")).exit, 130);
});

test("the first signal aborts, and nobody listens after it", async () => {
  const listeners = process.listenerCount("SIGTERM");
  const stopped = interruptible(async (signal) => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    assert.equal(process.listenerCount("SIGTERM"), listeners);
    signal.throwIfAborted();
  });
  process.emit("SIGTERM", "SIGTERM");
  await assert.rejects(stopped, (error) => error instanceof Interrupted && error.stopSignal === "SIGTERM");
});

test("what completes although it was asked to stop has completed", async () => {
  assert.equal(
    await interruptible(async () => {
      process.emit("SIGINT", "SIGINT");
      return 7;
    }),
    7,
  );
});

test("control characters from an image cannot forge output", () => {
  assert.equal(printable("a\u001b[2Kb\nc\u009b\u2028d é"), "a\\x1b[2Kb\\x0ac\\x9b\\u2028d é");
});
