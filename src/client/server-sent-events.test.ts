import assert from "node:assert/strict";
import { test } from "node:test";
import { type Message, MessageParser } from "./server-sent-events.ts";

const TEXT =
  'retry: 1000\nid: 3\n\n:\n\nid: 4\ndata: {"a":\ndata: 1}\n\nevent: x\n\nid:5\r\ndata:b\r\n\r\ndata: c\n\ndata: cut off';
const MESSAGES: Message[] = [
  { id: "3", data: undefined },
  { id: "4", data: '{"a":\n1}' },
  { id: "5", data: "b" },
  { id: "5", data: "c" },
];

test("messages are the same however the text is cut", () => {
  for (let size = 1; size <= TEXT.length; size++) {
    const parser = new MessageParser();
    const found: Message[] = [];
    for (let at = 0; at < TEXT.length; at += size) found.push(...parser.push(TEXT.slice(at, at + size)));
    assert.deepEqual(found, MESSAGES, `in pieces of ${size}`);
  }
});

test("a message without an end is not kept", () => {
  const parser = new MessageParser();
  const line = `data: ${"x".repeat(1000)}\n`;
  assert.throws(() => {
    for (let i = 0; i < 2000; i++) parser.push(line);
  }, RangeError);
});
