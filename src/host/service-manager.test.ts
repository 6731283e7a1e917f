import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { NotifySocket } from "../../test/support/notify-socket.ts";
import { serviceManager } from "./service-manager.ts";

test("who was started by nobody has nobody to tell", () => {
  for (const NOTIFY_SOCKET of [undefined, "", "/", "relative", "vsock:2:1234"]) {
    assert.equal(serviceManager({ NOTIFY_SOCKET }), undefined, NOTIFY_SOCKET);
  }
});

test("a datagram with all lines gets to a socket of either kind", async (t) => {
  const path = join(temporaryDirectory(t), "notify");
  for (const name of [path, `@streamdisk-test-${randomUUID()}`]) {
    await using socket = await NotifySocket.listen(name);
    const manager = serviceManager({ NOTIFY_SOCKET: name });
    const before = readdirSync("/proc/self/fd").length;
    for (let i = 0; i < 20; i++) manager?.tell("READY=1", `STATUS=Größe ${i}`);
    await socket.hears("STATUS=Größe 19");
    assert.deepEqual(
      socket.heard,
      Array.from({ length: 20 }, (_, i) => ["READY=1", `STATUS=Größe ${i}`]),
    );
    assert.equal(readdirSync("/proc/self/fd").length, before, "descriptors are closed");
  }
});

test("a manager that is gone is an error of the system", (t) => {
  const name = join(temporaryDirectory(t), "gone");
  assert.throws(() => serviceManager({ NOTIFY_SOCKET: name })?.tell("READY=1"), { code: "ENOENT" });
  const long = `/${"x".repeat(200)}`;
  assert.throws(() => serviceManager({ NOTIFY_SOCKET: long })?.tell("READY=1"), /too long/);
});

test("a watchdog is ours unless it is meant for another process", () => {
  const asked = (more: Record<string, string>) => serviceManager({ NOTIFY_SOCKET: "/x", ...more })?.watchdogMs;
  assert.equal(asked({}), undefined);
  assert.equal(asked({ WATCHDOG_USEC: "3000000" }), 3000);
  assert.equal(asked({ WATCHDOG_USEC: "3000000", WATCHDOG_PID: String(process.pid) }), 3000);
  assert.equal(asked({ WATCHDOG_USEC: "3000000", WATCHDOG_PID: "1" }), undefined);
  for (const WATCHDOG_USEC of ["0", "-1", "soon"]) assert.equal(asked({ WATCHDOG_USEC }), undefined, WATCHDOG_USEC);
});
