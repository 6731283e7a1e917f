/** TLS from the client's side, against nbdkit (GnuTLS) and qemu-nbd: what is accepted, and all that is not. */
import assert from "node:assert/strict";
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type ConnectNbdOptions, connectNbd, nbdExportInfo } from "../../src/nbd/index.ts";
import { type NbdServerOptions, startNbdkit, startQemuNbd } from "../support/nbd-servers.ts";
import { makeCertificates, makePskFile, revoke } from "../support/tls-files.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-nbd-tls-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const certificates = join(directory, "certificates");
/** Of another authority. */
const strange = join(directory, "strange");
/** Without a client's certificate. */
const nameless = join(directory, "nameless");
const psk = join(directory, "keys.psk");
const otherPsk = join(directory, "other.psk");

before(() => {
  makeCertificates(certificates);
  makeCertificates(strange);
  mkdirSync(nameless);
  copyFileSync(join(certificates, "ca-cert.pem"), join(nameless, "ca-cert.pem"));
  makePskFile(psk, "alice", "bob");
  makePskFile(otherPsk, "alice");
});

const SIZE = 300_000;
const X509 = ["--tls=require", `--tls-certificates=${certificates}`];
const PATTERN = ["pattern", `size=${SIZE}`];

async function reads(uri: string, options: ConnectNbdOptions): Promise<void> {
  await using disk = await connectNbd(uri, options);
  assert.equal(disk.info.tls, true);
  const bytes = Buffer.alloc(SIZE);
  await Promise.all(
    Array.from({ length: 10 }, (_, part) =>
      disk.read(30_000 * part, bytes.subarray(30_000 * part, 30_000 * (part + 1))),
    ),
  );
  for (let at = 0; at < SIZE; at += 8) assert.equal(bytes.readUIntBE(at + 2, 6), at);
}

test("certificates", async () => {
  const accepted: readonly [string[], NbdServerOptions, ConnectNbdOptions][] = [
    [X509, { tcp: true }, { tlsCertificates: certificates }],
    [X509, { tcp: true, query: `tls-certificates=${certificates}` }, {}],
    [
      X509,
      { tcp: true, query: "tls-hostname=localhost&tls-type=x509" },
      { tlsCertificates: certificates, tlsPskFile: psk },
    ],
    [X509, {}, { tlsCertificates: nameless }],
    [X509, { query: "tls-hostname=localhost" }, { tlsCertificates: certificates }],
    [[...X509, "--tls-verify-peer"], { tcp: true }, { tlsCertificates: certificates }],
  ];
  for (const [args, where, options] of accepted) {
    await using server = await startNbdkit([...args, ...PATTERN], { ...where, tls: true });
    await reads(server.uri, options);
  }
});

test("certificates that are not accepted", async () => {
  const refused: readonly [string[], NbdServerOptions, ConnectNbdOptions, RegExp][] = [
    [X509, { tcp: true }, {}, /TLS with .* failed: .*(self-signed|unable to)/],
    [X509, { tcp: true }, { tlsCertificates: strange }, /TLS with .* failed: .*(self-signed|unable to|signature)/],
    [X509, { tcp: true, query: "tls-hostname=example.com" }, { tlsCertificates: certificates }, /example\.com/],
    [X509, { query: "tls-hostname=example.com" }, { tlsCertificates: certificates }, /example\.com/],
    // The server learns that the client has no certificate after the client has finished.
    [[...X509, "--tls-verify-peer"], { tcp: true }, { tlsCertificates: nameless }, /certificate|ended/],
  ];
  for (const [args, where, options, message] of refused) {
    await using server = await startNbdkit([...args, ...PATTERN], { ...where, tls: true });
    await assert.rejects(connectNbd(server.uri, options), { name: "StreamdiskError", message }, String(message));
  }
});

test("a certificate that was revoked", async () => {
  const revoked = join(directory, "revoked");
  cpSync(certificates, revoked, { recursive: true });
  revoke(revoked, "server");
  await using server = await startNbdkit([...X509, ...PATTERN], { tcp: true, tls: true });
  await assert.rejects(connectNbd(server.uri, { tlsCertificates: revoked }), { code: "refused", message: /revoked/ });
});

test("pre-shared keys", async () => {
  await using server = await startNbdkit(["--tls=require", `--tls-psk=${psk}`, ...PATTERN], { tcp: true, tls: true });
  for (const user of ["alice", "bob"]) {
    const uri = server.uri.replace("://", `://${user}@`);
    await reads(uri, { tlsPskFile: psk });
    await reads(`${uri}?tls-type=psk&tls-psk-file=${psk}`, { tlsCertificates: certificates });
  }
  // A key file of one user says who that is.
  await assert.rejects(connectNbd(server.uri, { tlsPskFile: otherPsk }), {
    code: "refused",
    message: /TLS with .* failed/,
  });
  await assert.rejects(connectNbd(server.uri.replace("://", "://alice@"), { tlsPskFile: otherPsk }), {
    code: "refused",
  });
});

test("a certificate does not do in place of a key, nor a key in place of a certificate", async () => {
  await using x509 = await startNbdkit([...X509, ...PATTERN], { tcp: true, tls: true });
  await assert.rejects(connectNbd(x509.uri, { tlsPskFile: otherPsk }), { code: "refused" });
  await using keys = await startNbdkit(["--tls=require", `--tls-psk=${psk}`, ...PATTERN], { tcp: true, tls: true });
  await assert.rejects(connectNbd(keys.uri, { tlsCertificates: certificates }), { code: "refused" });
});

test("never plain text for nbds, and a server that wants TLS says so to nbd", async () => {
  await using plain = await startNbdkit(PATTERN, { tcp: true, tls: true });
  await assert.rejects(connectNbd(plain.uri, { tlsCertificates: certificates }), {
    code: "refused",
    message: /does not offer TLS/,
  });
  await using masked = await startNbdkit(["--mask-handshake=0", ...PATTERN], { tls: true });
  await assert.rejects(connectNbd(masked.uri, { tlsCertificates: certificates }), {
    code: "refused",
    message: /does not offer TLS/,
  });
  await using strict = await startNbdkit([...X509, ...PATTERN], { tcp: true });
  await assert.rejects(connectNbd(strict.uri), { code: "refused", message: /only over TLS: use an nbds:\/\/ URI/ });
  await assert.rejects(nbdExportInfo(strict.uri), { code: "refused", message: /only over TLS/ });
});

test("qemu-nbd with certificates and with keys", async () => {
  const image = join(directory, "qemu.raw");
  const bytes = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at += 8) bytes.writeUIntBE(at, at + 2, 6);
  writeFileSync(image, bytes);
  const object = `tls-creds-x509,id=tls,endpoint=server,dir=${certificates}`;
  await using server = await startQemuNbd(["--object", object, "--tls-creds", "tls", "-f", "raw", image], {
    tcp: true,
    tls: true,
  });
  await reads(server.uri, { tlsCertificates: certificates });
  // QEMU has its keys in a directory, under this name.
  mkdirSync(join(directory, "psk"));
  copyFileSync(psk, join(directory, "psk", "keys.psk"));
  const keys = `tls-creds-psk,id=tls,endpoint=server,dir=${join(directory, "psk")}`;
  await using pskServer = await startQemuNbd(["--object", keys, "--tls-creds", "tls", "-f", "raw", image], {
    tcp: true,
    tls: true,
  });
  await reads(pskServer.uri.replace("://", "://alice@"), { tlsPskFile: psk });
});

test("after a restart the connection is encrypted again", async () => {
  await using server = await startNbdkit([...X509, ...PATTERN], { tcp: true, tls: true });
  await using disk = await connectNbd(server.uri, { tlsCertificates: certificates, patienceMs: 20_000 });
  await disk.read(0, Buffer.alloc(512));
  await server.stop();
  const reading = disk.read(4096, Buffer.alloc(512));
  await server.start();
  await reading;
});
