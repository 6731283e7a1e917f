import assert from "node:assert/strict";
import { test } from "node:test";
import {
  chunk,
  contentChunk,
  errorChunk,
  holeChunk,
  simpleReply,
  statusChunk,
} from "../../../test/support/nbd-replies.ts";
import { CHUNK, COMMAND, type Command } from "../protocol.ts";
import { ReplyReader } from "./reply-reader.ts";
import { NbdRequest } from "./request.ts";

const EXPORT = 10_000;
const CONTEXTS = new Map([
  [7, "base:allocation"],
  [9, "qemu:allocation-depth"],
]);

interface Asked {
  readonly command?: Command;
  readonly offset?: number;
  readonly length?: number;
  readonly structured?: boolean;
}

/** Feeds a reply to a request of cookie 1, `step` bytes at a time. */
function feed(
  { command = COMMAND.READ, offset = 1000, length = 8, structured = true }: Asked,
  reply: Uint8Array,
  step: number,
) {
  const target = command === COMMAND.READ ? Buffer.alloc(length, 0xee) : undefined;
  const request = new NbdRequest(command, offset, length, target && { target });
  request.answered.catch(() => {});
  const inFlight = new Map([[1, request]]);
  let done = 0;
  const reader = new ReplyReader(
    { node: "disk", exportLength: EXPORT, structured, contexts: CONTEXTS },
    {
      find: (cookie) => inFlight.get(cookie),
      done: (finished) => {
        done++;
        inFlight.clear();
        assert.equal(finished, request);
      },
    },
  );
  for (let at = 0; at < reply.length; at += step) reader.feed(Buffer.from(reply.subarray(at, at + step)));
  return { request, target, done, reader };
}

const bytes = (...values: number[]) => Uint8Array.from(values);

test("takes right replies, whole and in pieces", () => {
  const data = bytes(1, 2, 3, 4, 5, 6, 7, 8);
  const right: readonly [string, Asked, Uint8Array[], Uint8Array?][] = [
    ["simple", { structured: false }, [simpleReply(1), data], data],
    ["one chunk", {}, [contentChunk(1, 1000, data, true)], data],
    ["a chunk and the end", {}, [contentChunk(1, 1000, data), chunk(1, CHUNK.NONE, bytes(), true)], data],
    [
      "chunks out of order, with a hole",
      {},
      [contentChunk(1, 1006, bytes(7, 8)), holeChunk(1, 1002, 4), contentChunk(1, 1000, bytes(1, 2), true)],
      bytes(1, 2, 0, 0, 0, 0, 7, 8),
    ],
    ["an unknown flag", {}, [contentChunk(1, 1000, data, true, 0x8000)], data],
    ["write, simple", { command: COMMAND.WRITE }, [simpleReply(1)]],
    ["write, structured", { command: COMMAND.WRITE }, [chunk(1, CHUNK.NONE, bytes(), true)]],
    [
      "extents, the last of them longer than asked for",
      { command: COMMAND.BLOCK_STATUS, length: 2000 },
      [
        statusChunk(1, 9, [[9000, 1]]),
        statusChunk(
          1,
          7,
          [
            [1500, 0],
            [400, 3],
            [101, 3],
          ],
          true,
        ),
      ],
    ],
  ];
  for (const [name, asked, reply, expected] of right) {
    for (const step of [1, 7, 1000]) {
      const { request, target, done } = feed(asked, Buffer.concat(reply), step);
      assert.equal(done, 1, name);
      assert.equal(request.errorValue, 0, name);
      if (expected !== undefined) assert.deepEqual(target, Buffer.from(expected), name);
    }
  }
  const { request } = feed(...([right[7]![1], Buffer.concat(right[7]![2]), 5] as const));
  assert.deepEqual(request.status.get("base:allocation")!.lengths, [1500, 501]);
  assert.deepEqual(request.status.get("base:allocation")!.flags, [0, 3]);
  assert.deepEqual(request.status.get("qemu:allocation-depth")!.lengths, [9000]);
});

test("takes errors, with their text and offset", () => {
  const errors: readonly [Asked, Uint8Array[], number, string, number?][] = [
    [{ structured: false }, [simpleReply(1, 5)], 5, ""],
    [{ command: COMMAND.BLOCK_STATUS }, [simpleReply(1, 22)], 22, ""],
    [{}, [errorChunk(1, 5, "disk on\u0007 fire", { done: true })], 5, "disk on fire"],
    [{ command: COMMAND.WRITE }, [errorChunk(1, 28, "full", { offset: 1003, done: true })], 28, "full", 1003],
    // Content may come before and after; the first error counts.
    [
      {},
      [
        contentChunk(1, 1000, bytes(1, 2)),
        errorChunk(1, 5, "a", { offset: 1000 }),
        contentChunk(1, 1006, bytes(1, 2)),
        errorChunk(1, 6, "b", { offset: 1004 }),
        chunk(1, CHUNK.NONE, bytes(), true),
      ],
      5,
      "a",
      1000,
    ],
    // An error of an unknown kind is an error all the same.
    [{}, [chunk(1, 0x9999, Buffer.from("0000000c0002686900112233", "hex"), true)], 12, "hi"],
  ];
  for (const [asked, reply, value, text, offset] of errors) {
    for (const step of [1, 1000]) {
      const { request, done } = feed(asked, Buffer.concat(reply), step);
      assert.equal(done, 1);
      assert.deepEqual([request.errorValue, request.errorText, request.errorOffset], [value, text, offset]);
    }
  }
});

test("nothing is written to memory that the caller has back", () => {
  const { request, target, reader } = feed({}, contentChunk(1, 1000, bytes(1, 2, 3)), 1000);
  request.abandon(new Error("enough"));
  reader.feed(Buffer.from(contentChunk(1, 1003, bytes(4, 5, 6, 7, 8), true)));
  assert.deepEqual(target, Buffer.from([1, 2, 3, 0xee, 0xee, 0xee, 0xee, 0xee]));
});

test("a wrong reply ends it, and is named", () => {
  const status = { command: COMMAND.BLOCK_STATUS, length: 2000 };
  const write = { command: COMMAND.WRITE };
  const eight = bytes(1, 2, 3, 4, 5, 6, 7, 8);
  const wrong: readonly [RegExp, Asked, Uint8Array[]][] = [
    [/0x12345678 where a reply should begin/, {}, [Buffer.from("12345678", "hex"), Buffer.alloc(12)]],
    [/cookie 0000000000000002, which answers nothing/, {}, [contentChunk(2, 1000, eight, true)]],
    [/cookie 0000000000000002/, { structured: false }, [simpleReply(2), eight]],
    [/cookie ffffffffffffffff/, {}, [Buffer.from("668e33ef00010000ffffffffffffffff00000000", "hex")]],
    [/READ of 8 bytes at 1000 with a simple reply, although/, {}, [simpleReply(1), eight]],
    [/a simple reply, although/, {}, [simpleReply(1, 5)]],
    [/a structured reply, which was not negotiated/, { structured: false }, [contentChunk(1, 1000, eight, true)]],
    [/only 7 bytes/, {}, [contentChunk(1, 1000, eight.subarray(0, 7), true)]],
    [/only 0 bytes/, {}, [chunk(1, CHUNK.NONE, bytes(), true)]],
    [
      /only 6 bytes/,
      {},
      [contentChunk(1, 1000, eight.subarray(0, 3)), contentChunk(1, 1005, eight.subarray(0, 3), true)],
    ],
    [
      /data chunk of 3 bytes at 1002, where there was one/,
      {},
      [contentChunk(1, 1000, eight.subarray(0, 3)), contentChunk(1, 1002, eight.subarray(0, 3))],
    ],
    [
      /hole chunk of 8 bytes at 1000, where there was one/,
      {},
      [contentChunk(1, 1007, bytes(1)), holeChunk(1, 1000, 8)],
    ],
    [/data chunk of 4 bytes at 1006, outside it/, {}, [contentChunk(1, 1006, eight.subarray(0, 4))]],
    [/data chunk of 4 bytes at 998, outside it/, {}, [contentChunk(1, 998, eight.subarray(0, 4))]],
    [/hole chunk of 4294967295 bytes at 1000, outside it/, {}, [holeChunk(1, 1000, 0xffffffff)]],
    [
      /hole chunk of 4 bytes at \d+, outside it/,
      {},
      [chunk(1, CHUNK.OFFSET_HOLE, Buffer.from("ffffffffffffffff00000004", "hex"))],
    ],
    [/an empty hole chunk/, {}, [holeChunk(1, 1000, 0)]],
    [/a hole chunk of 13 bytes/, {}, [chunk(1, CHUNK.OFFSET_HOLE, Buffer.alloc(13))]],
    [/a data chunk of 8 bytes/, {}, [contentChunk(1, 1000, bytes())]],
    [/a data chunk of 17 bytes/, {}, [contentChunk(1, 1000, Buffer.alloc(9))]],
    [/a data chunk of 4294967295 bytes/, {}, [Buffer.from("668e33ef000100010000000000000001ffffffff", "hex")]],
    [/after an error at 1004/, {}, [errorChunk(1, 5, "", { offset: 1004 }), contentChunk(1, 1004, bytes(1))]],
    [/a chunk without content that is not the end/, {}, [chunk(1, CHUNK.NONE, bytes(), false)]],
    [/a chunk without content/, {}, [chunk(1, CHUNK.NONE, bytes(1), true)]],
    [/a chunk of type 3, which is no answer/, {}, [chunk(1, 3, bytes(), true)]],
    [/WRITE of 8 bytes at 1000 with a chunk of type 1,/, write, [contentChunk(1, 1000, eight, true)]],
    [/a chunk of type 5,/, {}, [statusChunk(1, 7, [[8, 0]], true)]],
    [/a chunk of type 2,/, status, [holeChunk(1, 1000, 8)]],
    [/an error chunk of 5 bytes/, {}, [chunk(1, CHUNK.ERROR, Buffer.alloc(5), true)]],
    [/an error chunk of 13 bytes/, {}, [chunk(1, CHUNK.ERROR_OFFSET, Buffer.alloc(13), true)]],
    [/an error chunk of 8193 bytes/, {}, [chunk(1, CHUNK.ERROR, Buffer.alloc(8193), true)]],
    [/an error chunk without an error/, {}, [errorChunk(1, 0, "", { done: true })]],
    [
      /an error chunk of 6 bytes with a message of 1/,
      {},
      [chunk(1, CHUNK.ERROR, Buffer.from("000000050001", "hex"), true)],
    ],
    [/with a message of 4097/, {}, [errorChunk(1, 5, "x".repeat(4097), { done: true })]],
    [/a message of 8/, {}, [chunk(1, CHUNK.ERROR_OFFSET, Buffer.from("0000000500080000000000000000", "hex"), true)]],
    [/an error at 1008, outside it/, {}, [errorChunk(1, 5, "", { offset: 1008, done: true })]],
    [/an error at 999, outside it/, {}, [errorChunk(1, 5, "", { offset: 999, done: true })]],
    [
      /FLUSH with an error at 0, outside it/,
      { command: COMMAND.FLUSH, offset: 0, length: 0 },
      [errorChunk(1, 5, "", { offset: 0, done: true })],
    ],
    [/a simple reply without extents/, status, [simpleReply(1)]],
    [/no extents of 'base:allocation'/, status, [chunk(1, CHUNK.NONE, bytes(), true)]],
    [/no extents of 'qemu:allocation-depth'/, status, [statusChunk(1, 7, [[2000, 0]], true)]],
    [/extents of 'base:allocation' twice/, status, [statusChunk(1, 7, [[2000, 0]]), statusChunk(1, 7, [[2000, 0]])]],
    [/metadata context 8, which was not negotiated/, status, [statusChunk(1, 8, [[2000, 0]])]],
    [
      /an empty extent at 1100/,
      status,
      [
        statusChunk(1, 7, [
          [100, 0],
          [0, 0],
        ]),
      ],
    ],
    [
      /an extent at 3000, beyond it/,
      status,
      [
        statusChunk(1, 7, [
          [2000, 0],
          [100, 0],
        ]),
      ],
    ],
    [/an extent of 9001 bytes at 1000, past the end of the export \(10000\)/, status, [statusChunk(1, 7, [[9001, 0]])]],
    [
      /an extent of 4294967295 bytes at 1100, past/,
      status,
      [
        statusChunk(1, 7, [
          [100, 0],
          [0xffffffff, 0],
        ]),
      ],
    ],
    [/a block status chunk of 4 bytes/, status, [statusChunk(1, 7, [])]],
    [/a block status chunk of 13 bytes/, status, [chunk(1, CHUNK.BLOCK_STATUS, Buffer.alloc(13))]],
    [/a block status chunk of 8388620 bytes/, status, [Buffer.from("668e33ef0001000500000000000000010080000c", "hex")]],
  ];
  for (const [message, asked, reply] of wrong) {
    for (const step of [1, 13, 100_000]) {
      assert.throws(() => feed(asked, Buffer.concat(reply), step), { code: "protocol", message }, String(message));
    }
  }
});

test("a server that shreds a reply is turned away before it costs much", () => {
  const shreds = Array.from({ length: 5000 }, (_, index) => contentChunk(1, 1000 + 2 * index + 1, bytes(1)));
  assert.throws(() => feed({ length: 9000 }, Buffer.concat(shreds), 100_000), {
    message: /too many chunks out of order/,
  });
});

test("a million extents take no more room than the bound", () => {
  const runs = Array.from({ length: 2 ** 20 }, (_, index): [number, number] => [1, index % 2]);
  const length = runs.length;
  const request = new NbdRequest(COMMAND.BLOCK_STATUS, 0, length);
  const reader = new ReplyReader(
    { node: "disk", exportLength: length, structured: true, contexts: new Map([[7, "base:allocation"]]) },
    { find: () => request, done: () => {} },
  );
  reader.feed(statusChunk(1, 7, runs, true));
  const kept = request.status.get("base:allocation")!;
  assert.deepEqual([kept.lengths.length, kept.kept, kept.told], [65536, 65536, length]);
});
