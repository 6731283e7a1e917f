import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeRequest } from "../../../test/support/raw-nbd-client.ts";
import { COMMAND, COMMAND_FLAG, MAX_PAYLOAD, NBD_ERROR } from "../protocol.ts";
import { viewOf } from "./reply-codec.ts";
import { decodeRequest, newRequestHeader, PIECE, refusalOf, type Terms } from "./request.ts";

const LENGTH = 2 ** 40;
const terms: Terms = {
  exportName: "vm",
  length: LENGTH,
  readOnly: false,
  structured: true,
  caches: true,
  hasContexts: true,
};

function decoded(request: Parameters<typeof encodeRequest>[0]) {
  const header = newRequestHeader();
  assert.ok(decodeRequest(viewOf(encodeRequest(request)), 0, header));
  return header;
}

test("a header is decoded, and only one with the magic", () => {
  const { READ } = COMMAND;
  const bytes = encodeRequest({
    command: READ,
    flags: 4,
    cookie: 2 ** 33 + 5,
    offset: 2 ** 41 + 9,
    length: 0xfffffff0,
  });
  const header = newRequestHeader();
  assert.ok(decodeRequest(viewOf(bytes), 0, header));
  assert.deepEqual(header, {
    flags: 4,
    command: READ,
    cookieHigh: 2,
    cookieLow: 5,
    offset: 2 ** 41 + 9,
    length: 0xfffffff0,
  });
  assert.equal(decodeRequest(viewOf(encodeRequest({ command: READ, magic: 0x25609514 })), 0, header), false);
});

const { READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = COMMAND;
const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO } = COMMAND_FLAG;
const { EINVAL, ENOSPC, EPERM, EOVERFLOW } = NBD_ERROR;

const good: readonly (readonly [number, number | bigint, number, number])[] = [
  [READ, 0, 1, 0],
  [READ, 0, 0, 0],
  [READ, LENGTH - MAX_PAYLOAD, MAX_PAYLOAD, FUA],
  [READ, 0, PIECE, DF],
  [WRITE, LENGTH - 1, 1, FUA],
  [WRITE, 0, MAX_PAYLOAD, 0],
  [FLUSH, 0, 0, FUA],
  [TRIM, 0, 0xffffffff, FUA],
  [WRITE_ZEROES, 0, 0xffffffff, NO_HOLE | FUA],
  [WRITE_ZEROES, 1, 1, FAST_ZERO],
  [CACHE, 0, 0xffffffff, 0],
  [BLOCK_STATUS, 0, 0xffffffff, REQ_ONE],
];

test("what the protocol allows is allowed", () => {
  for (const [command, offset, length, flags] of good) {
    assert.equal(refusalOf(decoded({ command, offset, length, flags }), terms), undefined, `${command} ${length}`);
  }
});

const bad: readonly (readonly [string, number, number | bigint, number, number, number, Partial<Terms>])[] = [
  ["a read past the end", READ, LENGTH - 1, 2, 0, EINVAL, {}],
  ["a read whose end overflows", READ, 2n ** 64n - 1n, 2, 0, EINVAL, {}],
  ["a read of too much", READ, 0, MAX_PAYLOAD + 1, 0, EOVERFLOW, {}],
  ["a simple read of too much", READ, 0, MAX_PAYLOAD + 1, 0, EINVAL, { structured: false }],
  ["an unfragmented read of too much", READ, 0, PIECE + 1, DF, EOVERFLOW, {}],
  ["an unfragmented simple read", READ, 0, 512, DF, EINVAL, { structured: false }],
  ["a read with a flag of another command", READ, 0, 512, NO_HOLE, EINVAL, {}],
  ["a write past the end", WRITE, LENGTH, 1, 0, ENOSPC, {}],
  ["a write far past the end", WRITE, 2n ** 63n, 1, 0, ENOSPC, {}],
  ["a write of too much", WRITE, 0, MAX_PAYLOAD + 1, 0, EINVAL, {}],
  ["a write to what is read-only", WRITE, 0, 1, 0, EPERM, { readOnly: true }],
  ["a trim of what is read-only", TRIM, 0, 1, 0, EPERM, { readOnly: true }],
  ["zeroes to what is read-only", WRITE_ZEROES, 0, 1, 0, EPERM, { readOnly: true }],
  ["a trim past the end", TRIM, LENGTH, 1, 0, EINVAL, {}],
  ["zeroes past the end", WRITE_ZEROES, LENGTH, 1, 0, ENOSPC, {}],
  ["a flush of a range", FLUSH, 0, 1, 0, EINVAL, {}],
  ["a flush at a place", FLUSH, 1, 0, 0, EINVAL, {}],
  ["a cache that is not there", CACHE, 0, 1, 0, EINVAL, { caches: false }],
  ["a cache past the end", CACHE, LENGTH, 1, 0, EINVAL, {}],
  ["a status past the end", BLOCK_STATUS, LENGTH - 1, 2, 0, EINVAL, {}],
  ["a status of nothing", BLOCK_STATUS, 0, 0, 0, EINVAL, {}],
  ["a status without contexts", BLOCK_STATUS, 0, 1, 0, EINVAL, { hasContexts: false }],
  ["a command that is none", 8, 0, 1, 0, EINVAL, {}],
  ["an unknown flag", WRITE, 0, 1, 1 << 5, EINVAL, {}],
];

test("what it does not is refused with the right error, and a message with the numbers", () => {
  for (const [what, command, offset, length, flags, value, other] of bad) {
    const refusal = refusalOf(decoded({ command, offset, length, flags }), { ...terms, ...other });
    assert.equal(refusal?.value, value, what);
    assert.match(refusal.message, new RegExp(`${length} bytes at .* of export 'vm'`), what);
  }
});
