import assert from "node:assert/strict";
import { test } from "node:test";
import { formatNbdUri, isNbdUri, parseNbdUri, withoutUser } from "./uri.ts";

test("says what doc/uri.md of the NBD project says", () => {
  for (const [text, expected] of [
    ["nbd://example.com:10809/export", { host: "example.com", port: 10809, exportName: "export" }],
    ["nbd://example.com/disk", { host: "example.com", port: 10809, exportName: "disk" }],
    ["nbd://example.com/", { exportName: "" }],
    ["nbd://example.com", { exportName: "" }],
    ["nbd://example.com//disk", { exportName: "/disk" }],
    ["nbd://example.com/hello%20world", { exportName: "hello world" }],
    ["nbd://example.com/a/../b?x-new=1", { exportName: "a/../b" }],
    ["nbd://[::1]:5/d", { host: "::1", port: 5, exportName: "d" }],
    ["nbds://alice@example.com/d", { tls: true, user: "alice", host: "example.com" }],
    ["NBD+UNIX:///disk?socket=sock", { unix: true, socket: "sock", exportName: "disk", tls: false }],
    ["nbds+unix://alice@/d?socket=/s", { tls: true, user: "alice", socket: "/s", exportName: "d" }],
    ["nbd+unix:///?socket=%00/abstract", { socket: "\0/abstract", exportName: "" }],
    [
      "nbds+unix:///?socket=/a%20b&tls-hostname=h",
      { tls: true, socket: "/a b", params: new Map([["tls-hostname", "h"]]) },
    ],
  ] as const) {
    const uri = parseNbdUri(text) as Record<string, unknown>;
    for (const [name, value] of Object.entries(expected)) assert.deepEqual(uri[name], value, `${text}: ${name}`);
  }
});

test("what is wrong is refused with its reason", () => {
  for (const [text, reason] of [
    ["nbd", /must begin with/],
    ["http://host/x", /must begin with/],
    ["nbd:localhost:10809", /two slashes/],
    ["nbd:///x", /names no host/],
    ["nbd://host:0/x", /0 is no port/],
    ["nbd://host:70000/x", /70000 is no port/],
    ["nbd://::1/x", /IPv6 address in brackets/],
    ["nbd://me:secret@host/x", /password/],
    ["nbd://host/%ff", /percent-encoded/],
    ["nbd://host/%00", /NUL/],
    [`nbd://host/${"x".repeat(4097)}`, /longer than 4096/],
    ["nbd://host/x#y", /fragment/],
    ["nbd://host/x?socket=/s", /nbd\+unix/],
    ["nbd://host/x?colour=red", /'colour' is not known/],
    ["nbd://host/x?tls-hostname=h", /is for nbds/],
    ["nbds://host/x?tls-hostname=h&tls-hostname=i", /twice/],
    ["nbd+unix://sock/x?socket=/s", /a host means nothing/],
    ["nbd+unix:///x", /\?socket=PATH/],
    ["nbd+unix:///x?socket", /\?socket=PATH/],
  ] as const) {
    assert.throws(() => parseNbdUri(text), { code: "invalid-argument", message: reason }, text);
  }
  assert.throws(
    () => parseNbdUri("nbd://me:secret@host/x"),
    (error: Error) => !error.message.includes("secret"),
  );
});

test("what is written is read as it was", () => {
  for (const text of [
    "nbd://example.com/disk",
    "nbd://[fe80::1]:7/a%2Fb%3F%20%25",
    "nbds+unix:///%C3%A9?socket=/run/a%26b/s&tls-hostname=h",
    "nbd+unix:///?socket=/s",
  ]) {
    assert.equal(formatNbdUri(parseNbdUri(text)), text);
  }
});

test("tells a reference by its scheme", () => {
  assert.deepEqual(
    ["nbd:x", "NBDS://h", "nbd+unix:///?socket=s", "nbd", "./nbd:x", "file:nbd", "toString:x"].map(isNbdUri),
    [true, true, true, false, false, false, false],
  );
  assert.equal(withoutUser("nbds://alice@h/x@y"), "nbds://h/x@y");
});
