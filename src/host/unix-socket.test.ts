import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { listenUnix, type UnixListen } from "./unix-socket.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-socket-"));
after(() => rmSync(directory, { recursive: true }));

let count = 0;
function place(): string {
  const home = join(directory, String(count++));
  mkdirSync(home);
  return join(home, "s");
}

async function listening(options: UnixListen): Promise<{ server: Server; close: () => Promise<void> }> {
  const server = createServer((socket) => socket.end("hello").on("error", () => {}));
  const unlisten = await listenUnix(server, options);
  return {
    server,
    close: async () => {
      await unlisten();
      server.close();
      await once(server, "close");
    },
  };
}

async function hears(path: string): Promise<string> {
  const socket = connect(path);
  const [bytes] = await once(socket, "data");
  socket.destroy();
  return String(bytes);
}

/** A socket whose server was killed. */
async function leaveDead(path: string): Promise<void> {
  const code = `require("node:net").createServer().listen(${JSON.stringify(path)}, () => console.log("up"))`;
  const child = spawn(process.execPath, ["--eval", code], { stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout, "data");
  child.kill("SIGKILL");
  await once(child, "exit");
}

test("it listens, alone in its directory, and leaves nothing behind", async () => {
  const path = place();
  const { close } = await listening({ path });
  assert.equal(await hears(path), "hello");
  assert.deepEqual(readdirSync(join(path, "..")), ["s"]);
  await close();
  assert.deepEqual(readdirSync(join(path, "..")), []);
});

test("only its owner may connect, unless more is said, whatever the umask", async () => {
  const before = process.umask(0);
  try {
    for (const [options, mode] of [
      [{}, 0o600],
      [{ mode: 0o666 }, 0o666],
      [{ group: process.getgid?.() ?? 0 }, 0o660],
      [{ group: "root", mode: 0o640 }, 0o640],
    ] as const) {
      const path = place();
      const { close } = await listening({ path, ...options });
      const stat = statSync(path);
      assert.equal(stat.mode & 0o7777, mode);
      if ("group" in options) assert.equal(stat.gid, options.group === "root" ? 0 : options.group);
      await close();
    }
  } finally {
    process.umask(before);
  }
});

test("a dead server's name is taken over, a living one's is not", async () => {
  const path = place();
  await leaveDead(path);
  const first = await listening({ path });
  assert.equal(await hears(path), "hello");
  await assert.rejects(listening({ path }), { code: "in-use", message: /Another server listens at / });
  assert.equal(await hears(path), "hello", "the refusal harms nobody");
  assert.deepEqual(readdirSync(join(path, "..")), ["s"]);
  await first.close();
});

test("of many that want a dead server's name at once, one gets it", async () => {
  for (let round = 0; round < 5; round++) {
    const path = place();
    await leaveDead(path);
    const tried = await Promise.allSettled(Array.from({ length: 8 }, () => listening({ path })));
    const won = tried.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    for (const result of tried) if (result.status === "rejected") assert.equal(result.reason.code, "in-use");
    assert.equal(won.length, 1);
    assert.equal(await hears(path), "hello");
    await won[0]!.close();
  }
});

test("whose name it is now is not taken away", async () => {
  const path = place();
  const first = await listening({ path });
  rmSync(path);
  const second = await listening({ path });
  await first.close();
  assert.equal(await hears(path), "hello");
  await second.close();
});

test("what is no socket stays what it is", async () => {
  const path = place();
  writeFileSync(path, "precious");
  await assert.rejects(listening({ path }), { code: "exists", message: /is no socket/ });
  assert.equal(statSync(path).size, 8);
});

test("a place where it can't be is refused with the reason", async () => {
  await assert.rejects(listening({ path: join(directory, "x".repeat(120)) }), {
    code: "invalid-argument",
    message: /at most 107 bytes.*too long/,
  });
  await assert.rejects(listening({ path: join(directory, "not", "there") }), { code: "not-found" });
  await assert.rejects(listening({ path: place(), group: "no-such-group" }), { code: "not-found" });
});
