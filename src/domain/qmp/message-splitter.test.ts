import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seed } from "../../../test/support/seed.ts";
import { DEEPEST_MESSAGE, LONGEST_MESSAGE, MessageSplitter } from "./message-splitter.ts";

test("messages come out whole, however they are cut and whatever is between them", () => {
  const blank = fc.constantFrom("", "\n", "\r\n", " \t\r\n\n");
  const message = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 }));
  const pieces = fc.array(fc.nat({ max: 40 }), { minLength: 1 });
  fc.assert(
    fc.property(fc.array(fc.tuple(blank, message)), blank, pieces, (messages, end, sizes) => {
      const bytes = Buffer.from(messages.map(([before, value]) => before + JSON.stringify(value)).join("") + end);
      const splitter = new MessageSplitter();
      const texts: string[] = [];
      for (let at = 0, turn = 0; at < bytes.length; turn++) {
        const size = 1 + sizes[turn % sizes.length]!;
        // The splitter must not rely on memory that its caller uses again.
        const piece = Buffer.from(bytes.subarray(at, at + size));
        texts.push(...splitter.feed(piece));
        piece.fill(0x7b);
        at += size;
      }
      assert.deepEqual(
        texts,
        messages.map(([, value]) => JSON.stringify(value)),
      );
    }),
    { seed },
  );
});

test("what is no object, too long or too deep is refused", () => {
  assert.throws(() => new MessageSplitter().feed(Buffer.from("\n[1]")), /a byte 0x5b between messages/);
  assert.throws(() => new MessageSplitter().feed(Buffer.from('{"a":1}}')), /a byte 0x7d between messages/);
  const deep = Buffer.from('{"a":'.repeat(DEEPEST_MESSAGE + 1));
  assert.throws(() => new MessageSplitter().feed(deep), /deeper than 1024/);
  const splitter = new MessageSplitter();
  splitter.feed(Buffer.from('{"a":"'));
  const megabyte = Buffer.alloc(2 ** 20, 0x61);
  const feedAll = (): void => {
    for (let bytes = 0; bytes <= LONGEST_MESSAGE; bytes += megabyte.length) splitter.feed(megabyte);
  };
  assert.throws(feedAll, /more than 16777216 bytes/);
});
