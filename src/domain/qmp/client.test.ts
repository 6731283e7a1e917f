import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FakeMonitor, type FakeMonitorOptions, GREETING } from "../../../test/support/fake-monitor.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import type { StreamdiskError } from "../../errors/index.ts";
import { QmpClient } from "./client.ts";
import { qmpFailure } from "./qmp-error.ts";

const STATUS = '{"status": "running", "running": true}';

async function withMonitor(
  options: FakeMonitorOptions,
  work: (client: QmpClient, monitor: FakeMonitor, clock: ManualClock) => Promise<void>,
): Promise<void> {
  await using monitor = await FakeMonitor.start(options);
  const clock = new ManualClock();
  using client = new QmpClient(monitor.path, { clock, timeoutMs: 1000 });
  await work(client, monitor, clock);
}

test("answers find their commands, whatever comes in between and in which order", async () => {
  const ids: number[] = [];
  const options: FakeMonitorOptions = {
    greeting: `\r\n${GREETING}{"event": "RESUME", "timestamp": {}}`,
    command: ({ id }, socket) => {
      ids.push(id);
      if (ids.length < 3) return;
      const [first, second, third] = ids;
      // No newline anywhere, events in between, and the last one a byte at a time.
      const answer = (of: number | undefined, status: string): string =>
        `{"return": {"status": "${status}"}, "id": ${of}}{"event": "STOP", "data": {"x": "}\\"{"}}`;
      socket.write(answer(third, "c") + answer(first, "a"));
      void (async () => {
        for (const byte of Buffer.from(answer(second, "b"))) {
          socket.write(Buffer.of(byte));
          await new Promise((resolve) => setImmediate(resolve));
        }
      })();
    },
  };
  await withMonitor(options, async (client) => {
    const events: string[] = [];
    client.onEvent(({ name }) => events.push(name));
    const statuses = await Promise.all([1, 2, 3].map(() => client.execute("query-status", {})));
    assert.deepEqual(statuses, ["a", "b", "c"]);
    assert.deepEqual(events.slice(0, 3), ["RESUME", "STOP", "STOP"]);
    assert.equal(new Set(ids).size, 3);
  });
});

test("what QEMU refuses is an error with its class and its words", async () => {
  const refusals = ["GenericError", "CommandNotFound", "DeviceNotFound"];
  const command: FakeMonitorOptions["command"] = ({ id }, socket) => {
    socket.write(`{"error": {"class": "${refusals.shift()}", "desc": "no \\u00fc"}, "id": ${id}}\r\n`);
  };
  await withMonitor({ command }, async (client, monitor) => {
    for (const code of ["refused", "unsupported", "not-found"]) {
      await assert.rejects(client.execute("job-dismiss", { id: "x" }), (error: Error & { code: string }) => {
        assert.equal(error.code, code);
        assert.match(error.message, /^QEMU at '.*qmp' refuses job-dismiss: no ü \(\w+\)$/);
        assert.equal(qmpFailure(error)?.desc, "no ü");
        return true;
      });
    }
    assert.equal(monitor.clients.length, 1);
  });
});

const WRONG: Readonly<Record<string, readonly [answer: string, message: RegExp]>> = {
  "an id that was not sent": ['{"return": {}, "id": 77}', /an answer to a command with the id 77/],
  "no id": ['{"error": {"class": "GenericError", "desc": "JSON parse error"}}', /the id \(none\)/],
  "no JSON": ["{nonsense}", /breaks QMP/],
  "no object": ["[]", /a byte 0x5b between messages/],
  "neither event nor answer": ['{"what": 1}', /neither event nor answer/],
};

for (const [what, [answer, message]] of Object.entries(WRONG)) {
  test(`a monitor that sends ${what} is left, and connected to again`, async () => {
    let wrong = true;
    const command: FakeMonitorOptions["command"] = ({ id }, socket) => {
      socket.write(wrong ? answer : `{"return": ${STATUS}, "id": ${id}}`);
      wrong = false;
    };
    await withMonitor({ command }, async (client, monitor) => {
      await assert.rejects(client.execute("query-status", {}), { code: "protocol", message });
      assert.equal(await client.execute("query-status", {}), "running");
      assert.equal(monitor.clients.length, 2);
    });
  });
}

test("an answer of another shape is an error, and the connection goes on", async () => {
  const answers = ['{"status": 7}', '"text"', STATUS];
  const command: FakeMonitorOptions["command"] = ({ id }, socket) => {
    socket.write(`{"return": ${answers.shift()}, "id": ${id}}`);
  };
  await withMonitor({ command }, async (client, monitor) => {
    await assert.rejects(client.execute("query-status", {}), {
      code: "protocol",
      message: /'query-status.status' must be/,
    });
    await assert.rejects(client.execute("query-status", {}), {
      code: "protocol",
      message: /'query-status' must be an object/,
    });
    assert.equal(await client.execute("query-status", {}), "running");
    assert.equal(monitor.clients.length, 1);
  });
});

test("a monitor that does not greet is held by another", async () => {
  await withMonitor({ greeting: undefined }, async (client, _, clock) => {
    const refused = assert.rejects(client.execute("query-status", {}), { code: "in-use", message: /does not greet/ });
    await clock.runUntil(refused);
  });
});

test("a command that is not answered in time fails, and its late answer is dropped", async () => {
  let late = 0;
  const command: FakeMonitorOptions["command"] = ({ id }, socket) => {
    if (late === 0) late = id;
    else socket.write(`{"return": {"status": "late"}, "id": ${late}}{"return": ${STATUS}, "id": ${id}}`);
  };
  await withMonitor({ command }, async (client, monitor, clock) => {
    const silent = assert.rejects(client.execute("query-status", {}), {
      code: "io",
      message: /did not answer query-status/,
    });
    await clock.runUntil(silent);
    assert.equal(await client.execute("query-status", {}), "running");
    assert.equal(monitor.clients.length, 1);
  });
});

test("the signal ends waiting", async () => {
  const stop = new AbortController();
  await withMonitor({ command: () => stop.abort(new Error("enough")) }, async (client) => {
    await assert.rejects(client.execute("query-status", {}, { signal: stop.signal }), /enough/);
    await assert.rejects(client.execute("query-status", {}, { signal: stop.signal }), /enough/);
  });
});

test("a connection that ends fails what waits, tells whoever watches, and is made again", async () => {
  let closing = true;
  const command: FakeMonitorOptions["command"] = ({ id }, socket) => {
    if (closing) socket.end('{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}');
    else socket.write(`{"return": ${STATUS}, "id": ${id}}`);
    closing = false;
  };
  await withMonitor({ command }, async (client) => {
    const changed = client.change(1e9);
    await assert.rejects(client.execute("query-status", {}), { code: "shutdown", message: /QEMU closed it/ });
    await changed;
    assert.equal(client.shutdownReason, "guest-shutdown");
    assert.equal(await client.execute("query-status", {}), "running");
    assert.equal(client.shutdownReason, undefined);
  });
});

test("one that was disposed of is used no more", async () => {
  const command: FakeMonitorOptions["command"] = ({ id }, socket) => {
    socket.write(`{"return": ${STATUS}, "id": ${id}}`);
  };
  await withMonitor({ command }, async (client, monitor) => {
    await client.execute("query-status", {});
    const closed = once(monitor.clients[0]!, "close");
    client[Symbol.dispose]();
    await closed;
    await assert.rejects(client.execute("query-status", {}), { code: "shutdown" });
  });
});

test("who waits for a connection that is being made heeds its own signal, and takes nobody else's way", async () => {
  const greet = Promise.withResolvers<Socket>();
  const command: FakeMonitorOptions["command"] = ({ id }, socket) => {
    socket.write(`{"return": ${STATUS}, "id": ${id}}`);
  };
  await withMonitor({ greeting: undefined, command, connected: greet.resolve }, async (client, monitor) => {
    const first = new AbortController();
    const second = new AbortController();
    const left = [first, second].map(({ signal }) =>
      assert.rejects(client.execute("query-status", {}, { signal }), /enough/),
    );
    const stays = client.execute("query-status", {});
    const socket = await greet.promise;
    for (const one of [second, first]) one.abort(new Error("enough"));
    await Promise.all(left);
    socket.write(GREETING);
    assert.equal(await stays, "running");
    assert.equal(monitor.clients.length, 1);
  });
});

test("one that is disposed of while it connects waits no more", async () => {
  const connected = Promise.withResolvers<Socket>();
  await withMonitor({ greeting: undefined, connected: connected.resolve }, async (client) => {
    const refused = assert.rejects(client.execute("query-status", {}), {
      code: "shutdown",
      message: /not used any more/,
    });
    const closed = once(await connected.promise, "close");
    client[Symbol.dispose]();
    await refused;
    await closed;
  });
});

test("a monitor for which too many wait is busy", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "streamdisk-qmp-"));
  const path = join(directory, "qmp");
  const program = `net.createServer().listen({ path: ${JSON.stringify(path)}, backlog: 1 }, () => console.log("listens"))`;
  const server = spawn(process.execPath, ["--eval", program], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => server.kill("SIGKILL"));
  await once(server.stdout, "data");
  // From here on it accepts nobody.
  server.kill("SIGSTOP");
  const waiting: Socket[] = [];
  t.after(() => {
    for (const socket of waiting) socket.destroy();
    rmSync(directory, { recursive: true });
  });
  for (let full = false; !full; ) {
    const socket = connect({ path });
    waiting.push(socket);
    full = await once(socket, "connect").then(
      () => false,
      () => true,
    );
  }
  using client = new QmpClient(path);
  await assert.rejects(client.execute("query-status", {}), (error: StreamdiskError) => {
    assert.deepEqual([error.code, error.context.operation], ["in-use", "connect"]);
    assert.match(error.message, /it is busy, since it serves one client at a time/);
    return true;
  });
});

test("a socket that is not there is named", async () => {
  using client = new QmpClient("/nonexistent/qmp");
  const message = "Could not connect to QEMU's monitor at '/nonexistent/qmp': there is no such socket";
  await assert.rejects(client.execute("query-status", {}), { code: "not-found", message });
});
