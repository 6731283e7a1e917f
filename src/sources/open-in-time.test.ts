import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { openInTime } from "./open-in-time.ts";

class Opened implements AsyncDisposable {
  closed = false;

  async [Symbol.asyncDispose](): Promise<void> {
    this.closed = true;
  }
}

test("a file that opens in time is its caller's, and no timer stays", async () => {
  const clock = new ManualClock();
  const opened = new Opened();
  assert.equal(await openInTime("/mnt/a", Promise.resolve(opened), clock), opened);
  await clock.advance(3_600_000);
  assert.equal(opened.closed, false);
});

test("a file system that does not answer is a lost source, and what it opens later is closed", async () => {
  const clock = new ManualClock();
  const { promise, resolve } = Promise.withResolvers<Opened>();
  const waited = openInTime("/mnt/hung", promise, clock);
  await clock.advance(29_999);
  assert.equal(await Promise.race([waited, new Promise((go) => setImmediate(go, "waits"))]), "waits");
  const lost = assert.rejects(waited, {
    code: "source-lost",
    message: /'\/mnt\/hung' could not be opened within 30 s/,
  });
  await clock.advance(1);
  await lost;
  const opened = new Opened();
  resolve(opened);
  await new Promise((go) => setImmediate(go));
  assert.equal(opened.closed, true);
});

test("an error is handed on, also one that comes too late", async () => {
  const clock = new ManualClock();
  await assert.rejects(openInTime("/mnt/a", Promise.reject(new Error("gone")), clock), /gone/);
  const { promise, reject } = Promise.withResolvers<Opened>();
  const lost = assert.rejects(openInTime("/mnt/a", promise, clock), { code: "source-lost" });
  await clock.advance(30_000);
  await lost;
  reject(new Error("gone too late"));
  await new Promise((go) => setImmediate(go));
});
