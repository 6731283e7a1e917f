import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { loadPskFile, loadTlsCertificates } from "./tls.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-tls-"));
after(() => rmSync(directory, { recursive: true, force: true }));

function file(name: string, text: string): string {
  writeFileSync(join(directory, name), text);
  return join(directory, name);
}

test("keys are read as psktool writes them", async () => {
  const keys = await loadPskFile(file("keys", "# mine\nalice:00fF\n\nbob@host:0102030405060708\n"));
  assert.deepEqual(
    [...keys].map(([user, key]) => [user, key.toString("hex")]),
    [
      ["alice", "00ff"],
      ["bob@host", "0102030405060708"],
    ],
  );
});

test("a file that holds no keys is refused, and what it holds is not told", async () => {
  for (const [text, message] of [
    ["alice:00f\n", /Line 1 of '.*bad' is not of the form USER:HEX/],
    ["a:00\nsecret words\n", /Line 2/],
    [":00\n", /Line 1/],
    ["\n", /holds no key/],
    ["x".repeat(2 ** 20 + 1), /has 1048577 bytes/],
  ] as const) {
    await assert.rejects(loadPskFile(file("bad", text)), (error: Error & { code?: string }) => {
      assert.equal(error.code, "invalid-argument");
      assert.match(error.message, message);
      return !error.message.includes("secret");
    });
  }
  await assert.rejects(loadPskFile(join(directory, "none")), { code: "not-found" });
});

test("a client needs an authority, a server a certificate and a key of its own too", async () => {
  const ca = file("ca-cert.pem", "the authority");
  assert.deepEqual(await loadTlsCertificates(directory, "client"), {
    ca: "the authority",
    crl: undefined,
    cert: undefined,
    key: undefined,
  });
  await assert.rejects(loadTlsCertificates(directory, "server"), { code: "not-found", message: /server-cert.pem/ });
  file("client-cert.pem", "me");
  await assert.rejects(loadTlsCertificates(directory, "client"), { code: "not-found", message: /client-key.pem/ });
  file("client-key.pem", "my key");
  assert.equal((await loadTlsCertificates(directory, "client")).key, "my key");
  rmSync(ca);
  await assert.rejects(loadTlsCertificates(directory, "client"), { code: "not-found", message: /ca-cert.pem/ });
});
