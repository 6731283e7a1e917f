import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeFeed, fakeService, fakeWatch } from "../../test/support/fake-service.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { type HttpBindings, httpApp } from "./http-app.ts";
import { noLog } from "./log.ts";

function made() {
  const events = new FakeFeed();
  const clock = new ManualClock();
  const closing = new AbortController();
  const limits = { followers: 2, heartbeatMs: 15_000 };
  const app = httpApp(fakeService(), {
    events,
    watch: fakeWatch,
    access: {},
    log: noLog,
    clock,
    closing: closing.signal,
    limits,
  });
  let cut = 0;
  const cutOff = (): void => {
    cut += 1;
  };
  const bindings: HttpBindings = { caller: { kind: "unix" }, cutOff };
  const follow = async (query = "", headers: Record<string, string> = {}) => {
    const init = { headers: { Accept: "text/event-stream", ...headers } };
    return app.request(`/v1/events${query}`, init, bindings);
  };
  return { events, clock, closing, app, follow, cuts: () => cut };
}

/** Reads until the text is there. */
async function reader(response: Response) {
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const from = (response.body ?? assert.fail()).getReader();
  let text = "";
  return {
    cancel: () => from.cancel(),
    /** @returns the ids that have come */
    until: async (wanted: string): Promise<string[]> => {
      while (!text.includes(wanted)) {
        const { done, value } = await from.read();
        assert.ok(!done, `It ended without '${wanted}':\n${text}`);
        text += Buffer.from(value).toString();
      }
      return [...text.matchAll(/^id: (\d+)$/gm)].map((match) => match[1] as string);
    },
    end: async (): Promise<void> => {
      while (!(await from.read()).done);
    },
  };
}

test("a follower without an id begins now, and knows at once where it is", async () => {
  const { events, follow } = made();
  for (let i = 0; i < 3; i++) events.add();
  const stream = await reader(await follow());
  assert.deepEqual(await stream.until("id: 3\n\n"), ["3"]);
  events.add("vm1");
  assert.deepEqual(await stream.until('"message":"Event 4"'), ["3", "4"]);
  await stream.cancel();
});

test("a follower goes on after the id that it has, by header or by query, and the header wins", async () => {
  const { events, follow } = made();
  for (let i = 0; i < 5; i++) events.add();
  const byQuery = await reader(await follow("?after=3"));
  assert.deepEqual(await byQuery.until("Event 5"), ["3", "4", "5"]);
  const byHeader = await reader(await follow("?after=1", { "Last-Event-ID": "4" }));
  assert.deepEqual(await byHeader.until("Event 5"), ["4", "5"]);
  await Promise.all([byQuery.cancel(), byHeader.cancel()]);
  assert.equal((await follow("", { "Last-Event-ID": "x" })).status, 400);
});

test("only the events of one disk, if that is asked", async () => {
  const { events, follow } = made();
  for (const disk of ["vm1", "vm2", undefined, "vm1"]) events.add(disk);
  const stream = await reader(await follow("?after=0&disk=vm1"));
  assert.deepEqual(await stream.until("Event 4"), ["0", "1", "4"]);
  await stream.cancel();
});

test("a line without events is kept alive", async () => {
  const { clock, follow } = made();
  const stream = await reader(await follow());
  await stream.until("retry: 1000");
  await clock.advance(15_000);
  await stream.until("\n:\n\n");
  await stream.cancel();
});

test("there are no more followers than may be, and who leaves makes room", async () => {
  const { events, follow } = made();
  const streams = [await reader(await follow()), await reader(await follow())];
  const third = await follow();
  assert.deepEqual([third.status, third.headers.get("retry-after")], [503, "1"]);
  await streams[0]?.until("id: 0");
  await streams[0]?.cancel();
  assert.equal((await follow()).status, 200);
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(events.following <= 2);
});

test("a request for the head alone follows nothing", async () => {
  const { app, events } = made();
  const init = { method: "HEAD", headers: { Accept: "text/event-stream" } };
  const response = await app.request("/v1/events", init, { caller: { kind: "unix" } });
  assert.equal(response.headers.get("content-type"), "application/json");
  assert.equal(events.following, 0);
});

test("a follower that takes nothing is cut off after a minute, with no more than a little kept for it", async () => {
  const { events, clock, follow, cuts } = made();
  for (let i = 0; i < 2000; i++) events.add();
  const response = await follow("?after=0");
  await clock.advance(59_000);
  assert.equal(cuts(), 0);
  await clock.advance(30_000);
  assert.equal(cuts(), 1);
  let bytes = 0;
  for await (const chunk of response.body ?? []) bytes += chunk.length;
  assert.ok(bytes < 70_000, `${bytes} bytes were kept`);
});

test("all of them end when the daemon stops, and no new one begins", async () => {
  const { closing, events, follow } = made();
  const stream = await reader(await follow());
  await stream.until("id: 0");
  closing.abort();
  await stream.end();
  assert.equal(events.following, 0);
  assert.equal((await follow()).status, 503);
});
