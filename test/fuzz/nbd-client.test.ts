/** Servers that lie, at random: replies and negotiations that were right and have been bent. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { StreamdiskError } from "../../src/errors/index.ts";
import { connectNbd, listNbdExports, nbdExportInfo } from "../../src/nbd/index.ts";
import { below, chance, oneOf, type Random } from "../support/draw.ts";
import { FakeNbdServer } from "../support/fake-nbd-server.ts";
import { pick, rng } from "../support/seed.ts";
import { replyCase } from "./nbd-reply-case.ts";

test("bent replies are read as the protocol says, or end the connection", (t) => {
  const count = pick(20_000, 1_000_000);
  const ends = { right: 0, broken: 0 };
  for (let index = 0; index < count; index++) {
    const name = `nbd reply ${index}`;
    try {
      ends[replyCase(rng(name))]++;
    } catch (error) {
      throw new Error(`Case '${name}' failed`, { cause: error });
    }
  }
  t.diagnostic(`cells ${count}`);
  assert.ok(ends.right > count / 20 && ends.broken > count / 20, JSON.stringify(ends));
});

const directory = mkdtempSync(join(tmpdir(), "streamdisk-nbd-fuzz-"));
after(() => rmSync(directory, { recursive: true, force: true }));

/** What a client does with a server; each is some bytes of the server's. */
const VISITS = {
  open: async (uri: string): Promise<void> => {
    await using disk = await connectNbd(uri, { timeoutMs: 2000 });
    const bytes = Buffer.alloc(600);
    await Promise.allSettled([disk.read(disk.length > 700 ? 100 : 0, bytes.subarray(0, Math.min(600, disk.length)))]);
    await disk.extents(0, Math.min(disk.length, 1000));
  },
  info: async (uri: string): Promise<void> => void (await nbdExportInfo(uri, { timeoutMs: 2000 })),
  list: async (uri: string): Promise<void> => void (await listNbdExports(uri, { timeoutMs: 2000 })),
} as const;

/** The bytes that a right server sends during a visit. */
async function record(visit: (uri: string) => Promise<void>): Promise<Buffer> {
  await using server = await FakeNbdServer.start({
    contexts: new Map([
      [1, "base:allocation"],
      [2, "qemu:allocation-depth"],
    ]),
    blockSizes: [512, 4096, 65536],
    size: 65536,
  });
  const sent: Buffer[] = [];
  const peers = server.peers;
  const push = peers.push.bind(peers);
  peers.push = (...added) => {
    for (const peer of added) {
      const send = peer.send.bind(peer);
      peer.send = (...pieces) => {
        sent.push(...pieces.map((piece) => Buffer.from(piece)));
        send(...pieces);
      };
    }
    return push(...added);
  };
  await visit(server.uri);
  return Buffer.concat(sent);
}

function bend(random: Random, right: Buffer): Buffer {
  const bytes = Buffer.from(right);
  for (let times = 1 + below(random, 3); times > 0; times--) {
    const at = below(random, bytes.length - 4);
    if (chance(random, 0.4)) bytes[at]! ^= 1 << below(random, 8);
    else bytes.writeUInt32BE(oneOf(random, [0, 1, 3, 6, 0xffff, 0x7fffffff, 0x80000001, 0xffffffff]), at - (at % 2));
  }
  const cut = below(random, bytes.length);
  return chance(random, 0.2) ? Buffer.concat([bytes.subarray(0, cut), bytes.subarray(cut + below(random, 20))]) : bytes;
}

test("a bent negotiation ends in a typed error, or in a connection, and never hangs", async (t) => {
  const count = pick(400, 20_000);
  const path = join(directory, "s");
  let script: Buffer = Buffer.alloc(0);
  const sockets = new Set<Socket>();
  // All at once, whatever the client says, and then no more.
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    socket.resume();
    socket.end(script);
  }).listen(path);
  await once(server, "listening");
  const recorded = await Promise.all(
    Object.values(VISITS).map(async (visit) => ({ visit, right: await record(visit) })),
  );
  const ends: Record<string, number> = {};
  for (let index = 0; index < count; index++) {
    const name = `nbd negotiation ${index}`;
    const random = rng(name);
    const { visit, right } = recorded[index % recorded.length]!;
    script = bend(random, right);
    try {
      await visit(`nbd+unix:///?socket=${path}`);
      ends.fine = (ends.fine ?? 0) + 1;
    } catch (error) {
      if (!(error instanceof StreamdiskError)) throw new Error(`Case '${name}' failed`, { cause: error });
      ends[error.code] = (ends[error.code] ?? 0) + 1;
    }
  }
  for (const socket of sockets) socket.destroy();
  server.close();
  await once(server, "close");
  t.diagnostic(`cells ${count}`);
  assert.ok((ends.protocol ?? 0) > count / 10, JSON.stringify(ends));
});
