import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeContextQuery, encodeInfoRequest, encodeOption } from "../client/options.ts";
import { INFO, OPTION, REPLY } from "../protocol.ts";
import {
  decodeContextQuery,
  decodeInfoRequest,
  decodeName,
  decodeOptionHeader,
  encodeBlockSizes,
  encodeExportInfo,
  encodeExportNameReply,
  encodeListEntry,
  encodeOptionReply,
} from "./option-codec.ts";

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");

test("an option's header is what the protocol says, or nothing", () => {
  const option = encodeOption(OPTION.GO, Buffer.alloc(300));
  assert.deepEqual(decodeOptionHeader(option), { option: OPTION.GO, length: 300 });
  option[0]! ^= 1;
  assert.equal(decodeOptionHeader(option), undefined);
});

test("what a client encodes is decoded", () => {
  assert.deepEqual(decodeInfoRequest(encodeInfoRequest("vm ü", [INFO.NAME, 999])), {
    exportName: "vm ü",
    requests: [INFO.NAME, 999],
  });
  assert.deepEqual(decodeContextQuery(encodeContextQuery("", ["base:allocation", "qemu:"])), {
    exportName: "",
    queries: ["base:allocation", "qemu:"],
  });
  assert.equal(decodeName(Buffer.from("vm")), "vm");
  assert.equal(decodeName(Buffer.alloc(0)), "");
});

test("what is malformed is nothing", () => {
  for (const data of [
    "",
    "00 00 00",
    "00 00 00 00",
    "00 00 00 00 00",
    "00 00 00 00 00 01",
    "00 00 00 00 00 01 00 00 00",
    "00 00 00 05 61 62 00 00",
    "ff ff ff ff 61 62 00 00",
    "00 00 00 01 00 00 00",
    "00 00 00 01 ff 00 00",
  ]) {
    assert.equal(decodeInfoRequest(hex(data)), undefined, `info ${data}`);
  }
  for (const data of [
    "",
    "00 00 00 00",
    "00 00 00 00 00 00 00 01",
    "00 00 00 00 ff ff ff ff",
    "00 00 00 00 00 00 00 01 00 00 00 02 61",
    "00 00 00 00 00 00 00 01 00 00 00 02 61 62",
    "00 00 00 00 00 00 00 00 00",
    "00 00 00 00 00 00 00 01 00 00 00 02 61 3a 00",
  ]) {
    assert.equal(decodeContextQuery(hex(data)), undefined, `contexts ${data}`);
  }
  assert.equal(decodeInfoRequest(encodeInfoRequest("x".repeat(4097), [])), undefined);
  assert.notEqual(decodeInfoRequest(encodeInfoRequest("x".repeat(4096), [])), undefined);
  assert.equal(decodeName(Buffer.from("a\0b")), undefined);
  assert.equal(decodeName(hex("c3 28")), undefined);
});

test("replies are the bytes that the protocol says", () => {
  assert.deepEqual(
    encodeOptionReply(OPTION.LIST, REPLY.SERVER, encodeListEntry("vm", "disk")),
    hex("0003e889 045565a9 00000003 00000002 0000000a 00000002 766d 6469736b"),
  );
  assert.deepEqual(encodeOptionReply(99, REPLY.ERR_UNSUP), hex("0003e889 045565a9 00000063 80000001 00000000"));
  assert.deepEqual(encodeExportInfo(2 ** 40 + 7, 0x0543), hex("0000 00000100 00000007 0543"));
  assert.deepEqual(encodeBlockSizes(1, 4096, 2 ** 25), hex("0003 00000001 00001000 02000000"));
  assert.deepEqual(encodeExportNameReply(512, 0x0101, false), hex("00000000 00000200 0101"));
  assert.equal(encodeExportNameReply(512, 0x0101, true).length, 134);
});
