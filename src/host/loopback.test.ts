import assert from "node:assert/strict";
import { test } from "node:test";
import { isLoopback } from "./loopback.ts";

test("loopback addresses are told from those that others reach", () => {
  for (const host of ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"]) assert(isLoopback(host), host);
  for (const host of ["0.0.0.0", "::", "192.0.2.1", "127.example.org", "localhost.example.org", "127.1", ""]) {
    assert(!isLoopback(host), host);
  }
});
