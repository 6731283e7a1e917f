import assert from "node:assert/strict";
import { test } from "node:test";
import { uriIsBelow } from "./uri-prefix.ts";

test("a URI lies below a prefix that ends where a part of it does", () => {
  for (const [uri, prefix, below] of [
    ["nbd://host/a", "nbd://host/a", true],
    ["nbd://host/a", "nbd://host/", true],
    ["nbd://host/a", "nbd://host", true],
    ["nbd://host", "nbd://host", true],
    ["nbd://host/", "nbd://host", true],
    ["NBD://Host/a", "nbd://host/a", true],
    ["nbd://host/a/b", "nbd://host/a", true],
    ["nbd://host/ab", "nbd://host/a", false],
    ["nbd://host/A", "nbd://host/a", false],
    ["nbd://host.evil/a", "nbd://host", false],
    ["nbd://host:99/a", "nbd://host", false],
    ["nbd://host@evil/a", "nbd://host", false],
    ["nbds://host/a", "nbd://host", false],
    ["nbd://host/b/../a", "nbd://host/b", false],
    ["nbd://host/b/%2E%2e/a", "nbd://host/b", false],
    ["nbds://host/a?tls-certificates=/evil", "nbds://host/", false],
    ["nbds://host/a?tls-certificates=/mine", "nbds://host/a?tls-certificates=/mine", true],
    ["nbd+unix:///a?socket=/run/s", "nbd+unix:///a?socket=/run/s", true],
    ["nbd+unix:///a?socket=/run/s2", "nbd+unix:///a?socket=/run/s", false],
    ["nbd+unix:///a?socket=/run/s", "nbd+unix://", false],
    ["https://host/a?key=1", "https://host/", true],
    ["https://host/a?key=1", "https://host/a", true],
    ["https://host/a?key=1", "https://host/a?key=2", false],
    ["https://host/b?x=/../a", "https://host/b", false],
  ] as const) {
    assert.equal(uriIsBelow(uri, prefix), below, `${uri} below ${prefix}`);
  }
});
