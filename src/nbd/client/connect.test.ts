import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { FakeNbdServer, type FakePeer, type FakeServerScript, uint16 } from "../../../test/support/fake-nbd-server.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { uint32, uint64 } from "../../../test/support/nbd-replies.ts";
import type { ErrorCode } from "../../errors/index.ts";
import { FLAG, HANDSHAKE, INFO, OPTION, REPLY } from "../protocol.ts";
import { connectNbd, listNbdExports, nbdExportInfo } from "./connect.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-nbd-connect-"));
after(() => rmSync(directory, { recursive: true, force: true }));
const pskFile = join(directory, "keys.psk");
writeFileSync(pskFile, "alice:0123456789abcdef\n");

/** Answers one option by hand, the others as usual. */
function on(option: number, answer: (peer: FakePeer) => void): FakeServerScript {
  return {
    option: (asked, _data, peer) => {
      if (asked === option) answer(peer);
      return asked === option;
    },
  };
}

const go = (...infos: Uint8Array[]): FakeServerScript =>
  on(OPTION.GO, (peer) => {
    for (const info of infos) peer.optionReply(OPTION.GO, REPLY.INFO, info);
    peer.optionReply(OPTION.GO, REPLY.ACK);
  });
const goError = (type: number, text = ""): FakeServerScript =>
  on(OPTION.GO, (peer) => peer.optionReply(OPTION.GO, type, Buffer.from(text)));
const sized = (size: Uint8Array): Buffer => Buffer.concat([uint16(INFO.EXPORT), size, uint16(1)]);
const blocks = (...sizes: number[]): FakeServerScript =>
  go(sized(uint64(4096)), Buffer.concat([uint16(INFO.BLOCK_SIZE), ...sizes.map(uint32)]));
const contexts = (...payloads: Uint8Array[]): FakeServerScript =>
  on(OPTION.SET_META_CONTEXT, (peer) => {
    for (const payload of payloads) peer.optionReply(OPTION.SET_META_CONTEXT, REPLY.META_CONTEXT, payload);
    peer.optionReply(OPTION.SET_META_CONTEXT, REPLY.ACK);
  });
const context = (id: number, name: string): Buffer => Buffer.concat([uint32(id), Buffer.from(name)]);

test("every fault of a server that is being connected to has its error", async () => {
  const faults: readonly [ErrorCode, RegExp, FakeServerScript][] = [
    [
      "protocol",
      /is no NBD server: it greets with '485454502f312e31'/,
      { greeting: Buffer.from("HTTP/1.1 400 Bad Request\r\n") },
    ],
    [
      "unsupported",
      /oldstyle handshake/,
      { greeting: Buffer.concat([Buffer.from("NBDMAGIC"), Buffer.from("0000420281861253", "hex"), Buffer.alloc(136)]) },
    ],
    ["protocol", /'6f6f6f6f6f6f6f6f' in its greeting/, { greeting: Buffer.from("NBDMAGICoooooooooooo") }],
    [
      "protocol",
      /where a reply to option 8 should begin/,
      on(OPTION.STRUCTURED_REPLY, (peer) => peer.send(Buffer.alloc(20))),
    ],
    [
      "protocol",
      /a reply to option 9 instead of 8/,
      on(OPTION.STRUCTURED_REPLY, (peer) => peer.optionReply(9, REPLY.ACK)),
    ],
    [
      "protocol",
      /a reply of type 2 to STRUCTURED_REPLY/,
      on(OPTION.STRUCTURED_REPLY, (peer) => peer.optionReply(8, REPLY.SERVER)),
    ],
    [
      "protocol",
      /acknowledgement of option 8 with 1 bytes/,
      on(OPTION.STRUCTURED_REPLY, (peer) => peer.optionReply(8, REPLY.ACK, uint16(1).subarray(1))),
    ],
    [
      "protocol",
      /16385 bytes in reply to option 7/,
      on(OPTION.GO, (peer) => peer.optionReply(7, REPLY.INFO, Buffer.alloc(16385))),
    ],
    [
      "protocol",
      /more than 65536 replies/,
      on(OPTION.GO, (peer) => {
        for (let i = 0; i < 65536; i++) peer.optionReply(7, REPLY.INFO, uint16(99));
      }),
    ],
    [
      "protocol",
      /more than 8388608 bytes in reply to option 7/,
      on(OPTION.GO, (peer) => {
        for (let i = 0; i < 520; i++) peer.optionReply(7, REPLY.INFO, Buffer.alloc(16384, 0xff));
      }),
    ],
    ["protocol", /a reply of type 2 to option 7/, on(OPTION.GO, (peer) => peer.optionReply(7, REPLY.SERVER))],
    ["protocol", /no size of the export/, go()],
    ["protocol", /size and flags in 11 bytes/, go(sized(uint64(1)).subarray(0, 11))],
    ["protocol", /an information reply without a type/, go(Buffer.alloc(1))],
    ["unsupported", /an export of 18446744073709552000 bytes/, go(sized(Buffer.alloc(8, 0xff)))],
    ["protocol", /block sizes of 0 \(minimum\)/, blocks(0, 4096, 65536)],
    ["protocol", /block sizes of 3/, blocks(3, 4096, 65536)],
    ["protocol", /block sizes of 131072/, blocks(131072, 131072, 1048576)],
    ["protocol", /2048 \(preferred\)/, blocks(4096, 2048, 65536)],
    ["protocol", /512 \(maximum\)/, blocks(512, 4096, 512)],
    [
      "protocol",
      /block sizes in 13 bytes/,
      go(sized(uint64(4096)), Buffer.concat([uint16(INFO.BLOCK_SIZE), Buffer.alloc(11)])),
    ],
    [
      "protocol",
      /4 bytes that nobody asked for/,
      on(OPTION.GO, (peer) => {
        // In one piece, so that it is there when the negotiation ends.
        peer.socket.cork();
        peer.optionReply(OPTION.GO, REPLY.INFO, peer.infoExport());
        peer.optionReply(OPTION.GO, REPLY.ACK);
        peer.send(uint32(0));
        peer.socket.uncork();
      }),
    ],
    ["protocol", /that was not asked for/, contexts(context(1, "x-evil:all"))],
    [
      "protocol",
      /'base:allocation' or its number 2 twice/,
      contexts(context(1, "base:allocation"), context(2, "base:allocation")),
    ],
    ["protocol", /number 1 twice/, contexts(context(1, "base:allocation"), context(1, "qemu:allocation-depth"))],
    ["protocol", /4 bytes to SET_META_CONTEXT/, contexts(uint32(1))],
    ["not-found", /does not have an export 'x' \(it says: no such disk\)/, goError(REPLY.ERR_UNKNOWN, "no such disk")],
    ["refused", /gives an export 'x' only over TLS: use an nbds:/, goError(REPLY.ERR_TLS_REQD)],
    ["refused", /only over TLS/, on(OPTION.STRUCTURED_REPLY, (peer) => peer.optionReply(8, REPLY.ERR_TLS_REQD))],
    [
      "refused",
      /is not allowed to give an export 'x' \(it says: for friends only\)/,
      goError(REPLY.ERR_POLICY, "for\nfriends only"),
    ],
    ["source-lost", /is shutting down/, goError(REPLY.ERR_SHUTDOWN)],
    ["unsupported", /block sizes, which was done/, goError(REPLY.ERR_BLOCK_SIZE_REQD)],
    ["refused", /refuses an export 'x' with error 3/, goError(REPLY.ERR_INVALID)],
    ["source-lost", /ended: the server closed it$/, on(OPTION.GO, (peer) => peer.socket.end())],
    [
      "source-lost",
      /asked for the export 'x': it may have none/,
      { knowsGo: false, ...on(OPTION.EXPORT_NAME, (peer) => peer.socket.end()) },
    ],
  ];
  for (const [code, message, script] of faults) {
    await using server = await FakeNbdServer.start(script);
    const uri = server.uri.replace("///", "///x");
    await assert.rejects(connectNbd(uri), { name: "StreamdiskError", code, message }, String(message));
  }
});

test("TLS or nothing", async () => {
  const faults: readonly [RegExp, FakeServerScript][] = [
    [
      /does not offer TLS \(no certificates here\)/,
      on(OPTION.STARTTLS, (peer) => peer.optionReply(5, REPLY.ERR_POLICY, Buffer.from("no certificates here"))),
    ],
    [/does not offer TLS,/, { handshakeFlags: 0 }],
    [
      /TLS with .* failed: /,
      on(OPTION.STARTTLS, (peer) => {
        peer.optionReply(5, REPLY.ACK);
        setTimeout(() => peer.send(Buffer.alloc(100)), 20);
      }),
    ],
    [
      /TLS with .* failed: the server (closed the connection|reset it)/,
      on(OPTION.STARTTLS, (peer) => {
        peer.optionReply(5, REPLY.ACK);
        peer.socket.end();
      }),
    ],
    [
      /20 bytes in plain text after TLS was agreed upon/,
      on(OPTION.STARTTLS, (peer) => {
        peer.socket.cork();
        peer.optionReply(5, REPLY.ACK);
        peer.optionReply(8, REPLY.ACK);
        peer.socket.uncork();
      }),
    ],
  ];
  for (const [message, script] of faults) {
    const asked: number[] = [];
    await using server = await FakeNbdServer.start({
      ...script,
      option: (option, data, peer) => {
        asked.push(option);
        return script.option?.(option, data, peer) ?? false;
      },
    });
    const uri = server.uri.replace("nbd", "nbds");
    await assert.rejects(connectNbd(uri, { tlsPskFile: pskFile }), { message }, String(message));
    assert.deepEqual(asked, script.handshakeFlags === 0 ? [] : [OPTION.STARTTLS]);
  }
});

test("what TLS needs is asked for by name", async () => {
  const uri = "nbds+unix:///?socket=/nowhere";
  for (const [parameters, code, message] of [
    ["", "invalid-argument", /say whom to trust: tls-certificates=DIRECTORY/],
    ["&tls-verify-peer=0", "unsupported", /identity is always checked/],
    ["&tls-type=anon", "unsupported", /x509 or psk, not 'anon'/],
    ["&tls-type=psk", "invalid-argument", /say where the key is/],
    [`&tls-psk-file=${directory}/none`, "not-found", /none'/],
    [`&tls-certificates=${directory}`, "not-found", /ca-cert.pem'/],
    [`&tls-psk-file=${pskFile}`, "source-lost", /no such socket/],
  ] as const) {
    await assert.rejects(connectNbd(uri + parameters), { code, message });
  }
  await assert.rejects(connectNbd("nbds://bob@localhost/", { tlsPskFile: pskFile }), {
    message: /has no key of 'bob'/,
  });
});

test("falls back to what an old server knows", async () => {
  for (const [script, structured, contextCount] of [
    [{ knowsGo: false }, true, 1],
    [{ structured: false }, false, 0],
    [{ handshakeFlags: 0 }, false, 0],
    [{ handshakeFlags: HANDSHAKE.FIXED_NEWSTYLE, knowsGo: false, structured: false }, false, 0],
  ] as const) {
    await using server = await FakeNbdServer.start({
      ...script,
      contexts: new Map([[5, "base:allocation"]]),
      extents: [[1048576, 3]],
    });
    await using disk = await connectNbd(server.uri);
    assert.equal(disk.info.structuredReplies, structured);
    assert.equal(disk.info.contexts.length, contextCount);
    assert.equal(disk.length, server.content.length);
    const bytes = Buffer.alloc(5000);
    await disk.read(777, bytes);
    assert.deepEqual(bytes, server.content.subarray(777, 5777));
    assert.equal((await disk.extents(0, disk.length))[0]?.kind, contextCount === 0 ? "data" : "zero");
  }
});

test("flags mean nothing unless the server says that it has any", async () => {
  await using server = await FakeNbdServer.start({ flags: FLAG.READ_ONLY });
  await using disk = await connectNbd(server.uri);
  assert.equal(disk.readOnly, false);
});

test("a server that says nothing is given up in time, and the caller can stop waiting sooner", async () => {
  await using server = await FakeNbdServer.start(on(OPTION.GO, () => {}));
  const clock = new ManualClock();
  const connecting = connectNbd(server.uri, { clock, timeoutMs: 5000 });
  await assert.rejects(clock.runUntil(connecting, 1000), {
    code: "source-lost",
    message: /did not open a connection within 5 s/,
  });
  assert.ok(clock.now() >= 5000);
  const stop = new AbortController();
  const stopped = connectNbd(server.uri, { signal: stop.signal });
  stop.abort(new Error("enough"));
  await assert.rejects(stopped, /enough/);
  await assert.rejects(connectNbd(server.uri, { signal: AbortSignal.abort(new Error("before")) }), /before/);
});

test("nobody there", async () => {
  await assert.rejects(connectNbd("nbd+unix:///?socket=/nowhere/at/all"), {
    code: "source-lost",
    message: /no such socket/,
  });
  await assert.rejects(connectNbd("nbd://127.0.0.1:1/"), { code: "source-lost", message: /nobody listens there/ });
  await assert.rejects(connectNbd("nbd+unix:///?socket=/etc/passwd"), {
    code: "source-lost",
    message: /nobody listens there/,
  });
  // Patience begins before the first connection too.
  const clock = new ManualClock();
  const connecting = connectNbd("nbd://127.0.0.1:1/", { clock, patienceMs: 3000, random: () => 0 });
  await assert.rejects(clock.runUntil(connecting, 100), { code: "source-lost" });
  assert.deepEqual(
    clock.slept.filter((ms) => ms <= 5000),
    [100, 200, 400, 800],
  );
});

test("lists exports, and describes one without opening it", async () => {
  await using server = await FakeNbdServer.start({
    contexts: new Map([
      [1, "base:allocation"],
      [2, "x-own:thing"],
    ]),
    blockSizes: [512, 4096, 65536],
  });
  assert.deepEqual(await listNbdExports(server.uri), [
    { name: "disk", description: "a disk" },
    { name: "", description: "" },
  ]);
  const info = await nbdExportInfo(server.uri);
  assert.deepEqual([info.length, info.minimumBlock, info.contexts], [1048576, 512, ["base:allocation", "x-own:thing"]]);
  assert.deepEqual(server.requests, []);

  server.script.knowsGo = false;
  server.script.contexts = new Map();
  assert.equal((await nbdExportInfo(server.uri)).length, 1048576);
  Object.assign(
    server.script,
    on(OPTION.LIST, (peer) => peer.optionReply(OPTION.LIST, REPLY.ERR_POLICY)),
  );
  await assert.rejects(listNbdExports(server.uri), {
    code: "refused",
    message: /not allowed to give a list of its exports/,
  });
  Object.assign(
    server.script,
    on(OPTION.LIST, (peer) => peer.optionReply(OPTION.LIST, REPLY.SERVER, uint32(5))),
  );
  await assert.rejects(listNbdExports(server.uri), { code: "protocol", message: /4 bytes to LIST/ });
});
