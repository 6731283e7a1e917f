import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryNode } from "../../../test/support/memory-node.ts";
import type { StreamdiskError } from "../../errors/index.ts";
import { encodeContextQuery, encodeInfoRequest, encodeOption } from "../client/options.ts";
import { FLAG, INFO, OPTION, REPLY } from "../protocol.ts";
import { ExportTable, type NbdExport } from "./exports.ts";
import { Negotiation, type NegotiationHost } from "./negotiation.ts";
import type { Negotiated } from "./transmission.ts";

const vm: NbdExport = { name: "vm", description: "a disk", readOnly: false, node: new MemoryNode(2 ** 32) };
const safe: NbdExport = {
  name: "",
  readOnly: true,
  node: Object.assign(new MemoryNode(512), { cache: async () => {} }),
};

class Host implements NegotiationHost {
  readonly exports = new ExportTable([vm, safe]);
  tls = false;
  unsent = 0;
  full: string | undefined;
  sent = Buffer.alloc(0);
  negotiated: Negotiated | undefined;
  rest: Buffer | undefined;
  readonly events: string[] = [];
  dropped = "";

  refusal(): string | undefined {
    return this.full;
  }
  send(bytes: Buffer): void {
    this.sent = Buffer.concat([this.sent, bytes]);
  }
  transmit(negotiated: Negotiated, rest: Buffer): void {
    this.events.push("transmit");
    this.negotiated = negotiated;
    this.rest = rest;
  }
  startTls(): void {
    this.events.push("tls");
  }
  end(): void {
    this.events.push("end");
  }
  drop(why: StreamdiskError): void {
    assert.equal(why.code, "protocol");
    this.events.push("drop");
    this.dropped = why.message;
  }

  /** What was sent, as types of replies with their data. */
  replies(): [type: number, data: Buffer][] {
    const found: [number, Buffer][] = [];
    for (let bytes = this.sent; bytes.length > 0; ) {
      const end = 20 + bytes.readUInt32BE(16);
      found.push([bytes.readUInt32BE(12), bytes.subarray(20, end)]);
      bytes = bytes.subarray(end);
    }
    this.sent = Buffer.alloc(0);
    return found;
  }

  types(): number[] {
    return this.replies().map(([type]) => type);
  }
}

function begun(host: Host, { flags = 3, encrypted = false } = {}): Negotiation {
  const negotiation = new Negotiation(host, encrypted);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(flags);
  if (!encrypted) negotiation.receive(bytes);
  return negotiation;
}

function option(host: Host, negotiation: Negotiation, type: number, data?: Uint8Array): [number, Buffer][] {
  negotiation.receive(encodeOption(type, data));
  return host.replies();
}

const typesOf = (replies: readonly [number, Buffer][]): number[] => replies.map(([type]) => type);

test("GO gives the export with what was asked for", () => {
  const host = new Host();
  const negotiation = begun(host);
  const asked = [INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE, 77];
  const replies = option(host, negotiation, OPTION.GO, encodeInfoRequest("vm", asked));
  assert.deepEqual(typesOf(replies), [REPLY.INFO, REPLY.INFO, REPLY.INFO, REPLY.INFO, REPLY.ACK]);
  assert.equal(replies[0]![1].readBigUInt64BE(2), 2n ** 32n);
  assert.deepEqual(
    replies.slice(1, 3).map(([, data]) => data.toString("utf8", 2)),
    ["vm", "a disk"],
  );
  assert.deepEqual(host.events, ["transmit"]);
  assert.deepEqual(host.negotiated, { served: vm, length: 2 ** 32, structured: false, contexts: [] });
});

test("INFO says the same and goes on; what the export lacks is not told", () => {
  const host = new Host();
  const negotiation = begun(host);
  const replies = option(host, negotiation, OPTION.INFO, encodeInfoRequest("", [INFO.DESCRIPTION]));
  assert.deepEqual(typesOf(replies), [REPLY.INFO, REPLY.ACK]);
  assert.equal(
    replies[0]![1].readUInt16BE(10),
    FLAG.HAS_FLAGS | FLAG.READ_ONLY | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.CAN_MULTI_CONN | FLAG.SEND_CACHE,
  );
  assert.deepEqual(host.events, []);
});

test("the flags say what the export can, DF only with structured replies", () => {
  const host = new Host();
  const negotiation = begun(host);
  const flags = () => option(host, negotiation, OPTION.INFO, encodeInfoRequest("vm", []))[0]![1].readUInt16BE(10);
  const changes = FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES | FLAG.SEND_FAST_ZERO;
  const expected = FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.CAN_MULTI_CONN | changes;
  assert.equal(flags(), expected);
  assert.deepEqual(typesOf(option(host, negotiation, OPTION.STRUCTURED_REPLY)), [REPLY.ACK]);
  assert.equal(flags(), expected | FLAG.SEND_DF);
});

test("EXPORT_NAME begins at once, with zeroes behind it for those who want them", () => {
  for (const [flags, length] of [
    [3, 10],
    [1, 134],
    [0, 134],
  ] as const) {
    const host = new Host();
    begun(host, { flags }).receive(encodeOption(OPTION.EXPORT_NAME, Buffer.from("vm")));
    assert.equal(host.sent.length, length);
    assert.equal(host.sent.readBigUInt64BE(0), 2n ** 32n);
    assert.deepEqual(host.events, ["transmit"]);
  }
});

test("LIST has all exports", () => {
  const host = new Host();
  const replies = option(host, begun(host), OPTION.LIST);
  assert.deepEqual(
    replies.map(([type, data]) => [type, data.toString("latin1")]),
    [
      [REPLY.SERVER, "\0\0\0\x02vma disk"],
      [REPLY.SERVER, "\0\0\0\0"],
      [REPLY.ACK, ""],
    ],
  );
});

test("contexts are listed by name, by namespace or all, and chosen by name for one export", () => {
  const host = new Host();
  const negotiation = begun(host);
  const ask = (type: number, name: string, queries: readonly string[]) =>
    option(host, negotiation, type, encodeContextQuery(name, queries)).map(([reply, data]) =>
      reply === REPLY.META_CONTEXT ? data.toString("utf8", 4) : reply,
    );
  const list = (queries: readonly string[]) => ask(OPTION.LIST_META_CONTEXT, "vm", queries);
  const choose = (name: string, queries: readonly string[]) => ask(OPTION.SET_META_CONTEXT, name, queries);
  const all = ["base:allocation", "qemu:allocation-depth", "x-streamdisk:local"];

  assert.deepEqual(list([]), [REPLY.ERR_INVALID], "structured replies come first");
  option(host, negotiation, OPTION.STRUCTURED_REPLY);
  assert.deepEqual(list([]), [...all, REPLY.ACK]);
  assert.deepEqual(list(["qemu:", "base:nonsense", "other:x"]), ["qemu:allocation-depth", REPLY.ACK]);
  assert.deepEqual(list(["qemu:dirty-bitmap:x"]), [REPLY.ACK]);
  assert.deepEqual(list(["no namespace"]), [REPLY.ERR_INVALID]);
  assert.deepEqual(choose("vm", []), [REPLY.ACK]);
  assert.deepEqual(choose("vm", ["base:", "x-streamdisk:"]), [REPLY.ACK], "a wildcard chooses nothing");
  assert.deepEqual(choose("gone", all), [REPLY.ERR_UNKNOWN]);
  assert.deepEqual(choose("vm", [...all, ...all]), [...all, REPLY.ACK]);
  option(host, negotiation, OPTION.GO, encodeInfoRequest("vm", []));
  assert.deepEqual(host.negotiated?.contexts, all);
});

test("contexts of another export, or after a choice that failed, are none", () => {
  for (const last of ["other export", "failure"]) {
    const host = new Host();
    const negotiation = begun(host);
    option(host, negotiation, OPTION.STRUCTURED_REPLY);
    option(host, negotiation, OPTION.SET_META_CONTEXT, encodeContextQuery("vm", ["base:allocation"]));
    if (last === "failure") option(host, negotiation, OPTION.SET_META_CONTEXT, Buffer.from("nonsense"));
    option(host, negotiation, OPTION.GO, encodeInfoRequest(last === "failure" ? "vm" : "", []));
    assert.deepEqual(host.negotiated?.contexts, []);
  }
});

const { ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN, ERR_POLICY, ERR_TOO_BIG } = REPLY;
const refused: readonly (readonly [string, number, Uint8Array | undefined, number])[] = [
  ["an option that was withdrawn", 4, undefined, ERR_UNSUP],
  ["extended headers", 11, undefined, ERR_UNSUP],
  ["an option that is none", 0xffffffff, Buffer.alloc(1000), ERR_UNSUP],
  ["a list with data", OPTION.LIST, Buffer.alloc(1), ERR_INVALID],
  ["structured replies with data", OPTION.STRUCTURED_REPLY, Buffer.alloc(1), ERR_INVALID],
  ["TLS that is not there", OPTION.STARTTLS, undefined, ERR_POLICY],
  ["INFO without a word", OPTION.INFO, undefined, ERR_INVALID],
  ["GO to nowhere", OPTION.GO, encodeInfoRequest("gone", []), ERR_UNKNOWN],
  ["GO with a length that lies", OPTION.GO, Buffer.from("000000ff7600", "hex"), ERR_INVALID],
  ["an option of a size that is absurd", OPTION.GO, Buffer.alloc(64 * 1024 + 1), ERR_TOO_BIG],
];

for (const [what, type, data, answer] of refused) {
  test(`${what} is refused, and the next option is understood`, () => {
    const host = new Host();
    const negotiation = begun(host);
    assert.deepEqual(typesOf(option(host, negotiation, type, data)), [answer]);
    assert.deepEqual(typesOf(option(host, negotiation, OPTION.LIST)), [REPLY.SERVER, REPLY.SERVER, REPLY.ACK]);
  });
}

test("an export that is full says so, or hangs up where it has no words", () => {
  const host = new Host();
  host.full = "Export 'vm' takes 1 connections at a time";
  const [[type, data] = [0, ""]] = option(host, begun(host), OPTION.GO, encodeInfoRequest("vm", []));
  assert.deepEqual([type, data.toString()], [ERR_POLICY, host.full]);
  begun(host).receive(encodeOption(OPTION.EXPORT_NAME, Buffer.from("vm")));
  assert.deepEqual(host.events, ["drop"]);
});

test("ABORT is acknowledged, whatever comes with it", () => {
  const host = new Host();
  begun(host).receive(encodeOption(OPTION.ABORT, Buffer.from("bye")));
  assert.deepEqual([host.types(), host.events], [[REPLY.ACK], ["end"]]);
});

test("with TLS there is nothing but STARTTLS before it, and everything after it", () => {
  const host = new Host();
  host.tls = true;
  const negotiation = begun(host);
  for (const type of [OPTION.LIST, OPTION.INFO, OPTION.GO, OPTION.STRUCTURED_REPLY, 99]) {
    assert.deepEqual(typesOf(option(host, negotiation, type)), [REPLY.ERR_TLS_REQD]);
  }
  assert.deepEqual(typesOf(option(host, negotiation, OPTION.STARTTLS, Buffer.alloc(1))), [ERR_INVALID]);
  assert.deepEqual(typesOf(option(host, negotiation, OPTION.STARTTLS)), [REPLY.ACK]);
  assert.deepEqual(host.events, ["tls"]);
  const encrypted = begun(host, { encrypted: true });
  assert.deepEqual(typesOf(option(host, encrypted, OPTION.STARTTLS)), [ERR_INVALID]);
  assert.deepEqual(typesOf(option(host, encrypted, OPTION.LIST)), [REPLY.SERVER, REPLY.SERVER, REPLY.ACK]);
});

const dropped: readonly (readonly [string, RegExp, (host: Host) => void])[] = [
  ["unknown flags", /flags/, (host) => begun(host, { flags: 7 })],
  ["what is no option", /no option/, (host) => begun(host).receive(Buffer.alloc(16))],
  [
    "EXPORT_NAME of what is not there",
    /'gone'/,
    (host) => begun(host).receive(encodeOption(OPTION.EXPORT_NAME, Buffer.from("gone"))),
  ],
  [
    "EXPORT_NAME without TLS",
    /TLS/,
    (host) => {
      host.tls = true;
      begun(host).receive(encodeOption(OPTION.EXPORT_NAME, Buffer.from("vm")));
    },
  ],
  [
    "a client too old for TLS",
    /too old/,
    (host) => {
      host.tls = true;
      begun(host, { flags: 0 });
    },
  ],
  [
    "plain text behind STARTTLS",
    /plain text behind STARTTLS/,
    (host) => {
      host.tls = true;
      begun(host).receive(Buffer.concat([encodeOption(OPTION.STARTTLS), encodeOption(OPTION.LIST)]));
    },
  ],
  [
    "a client that does not read",
    /does not read/,
    (host) => {
      const negotiation = begun(host);
      host.unsent = 1;
      negotiation.receive(encodeOption(OPTION.LIST));
    },
  ],
  [
    "a flood of options",
    /4096 options/,
    (host) => {
      const negotiation = begun(host);
      const flood = Buffer.concat(Array.from({ length: 5000 }, () => encodeOption(99)));
      negotiation.receive(flood);
    },
  ],
];

for (const [what, why, act] of dropped) {
  test(`${what} ends the connection`, () => {
    const host = new Host();
    act(host);
    assert.deepEqual(host.events, ["drop"]);
    assert.match(host.dropped, why);
  });
}

test("it is all the same in whatever pieces the bytes come, and what follows GO is handed on", () => {
  const conversation = Buffer.concat([
    Buffer.from([0, 0, 0, 3]),
    encodeOption(OPTION.STRUCTURED_REPLY),
    encodeOption(OPTION.GO, Buffer.alloc(70_000)),
    encodeOption(OPTION.SET_META_CONTEXT, encodeContextQuery("vm", ["base:allocation"])),
    encodeOption(OPTION.GO, encodeInfoRequest("vm", [])),
    Buffer.from("request"),
  ]);
  for (const size of [1, 2, 3, 7, 19, 4096, conversation.length]) {
    const host = new Host();
    const negotiation = new Negotiation(host, false);
    let at = 0;
    while (at < conversation.length && host.negotiated === undefined) {
      negotiation.receive(conversation.subarray(at, at + size));
      at += size;
    }
    assert.deepEqual(host.types(), [REPLY.ACK, ERR_TOO_BIG, REPLY.META_CONTEXT, REPLY.ACK, REPLY.INFO, REPLY.ACK]);
    assert.deepEqual(host.negotiated, { served: vm, length: 2 ** 32, structured: true, contexts: ["base:allocation"] });
    assert.ok("request".startsWith(host.rest!.toString()), `in pieces of ${size}`);
    if (size === conversation.length) assert.equal(host.rest!.toString(), "request");
  }
});
