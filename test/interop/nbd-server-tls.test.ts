/** TLS from the server's side: who gets in (libnbd and QEMU, both GnuTLS), and who does not. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { encodeOption } from "../../src/nbd/client/options.ts";
import { connectNbd, type NbdServer, serveNbd } from "../../src/nbd/index.ts";
import { OPTION, REPLY } from "../../src/nbd/protocol.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { peer, refusedPeer, runPeer } from "../support/peer-process.ts";
import { RawNbdClient } from "../support/raw-nbd-client.ts";
import { makeCertificates, makePskFile, revoke } from "../support/tls-files.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-nbd-server-tls-"));
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

const LENGTH = 8 * 1024 * 1024;

async function disk(): Promise<MemoryNode> {
  const node = new MemoryNode(LENGTH, { grows: false });
  await node.write(
    0,
    Buffer.from(Array.from({ length: LENGTH / 2 }, (_, index) => (index * 31 + (index >> 9)) & 0xff)),
  );
  return node;
}

let count = 0;
const socketPath = (): string => join(directory, `s${count++}`);

function x509(directory: string, server: NbdServer): string {
  return `${server.uri}${server.address.unix ? "&tls-hostname=localhost&" : "?"}tls-certificates=${directory}`;
}

function withPsk(file: string, user: string, server: NbdServer): string {
  return `${server.uri.replace("://", `://${user}@`)}${server.address.unix ? "&" : "?"}tls-psk-file=${file}`;
}

/** Everything there is comes through unharmed, both ways. */
async function works(uri: string, node: MemoryNode): Promise<void> {
  const copy = join(directory, `copy${count++}`);
  await peer("nbdcopy", "--connections=2", uri, copy);
  const copied = await MemoryNode.load(copy);
  for (let at = 0; at < LENGTH; at += LENGTH / 4) {
    const [ours, theirs] = [Buffer.alloc(LENGTH / 4), Buffer.alloc(LENGTH / 4)];
    await node.read(at, ours);
    await copied.read(at, theirs);
    assert.equal(Buffer.compare(ours, theirs), 0);
  }
  const script = [
    ...["h.set_uri_allow_local_file(True)", `h.connect_uri("${uri}")`, "h.pwrite(b'z' * 3000000, 1000)", "h.flush()"],
    "assert h.pread(3000000, 1000) == b'z' * 3000000",
  ];
  await peer("nbdsh", "-c", script.join("\n"));
}

for (const listen of [() => ({ path: socketPath() }), () => ({ host: "127.0.0.1", port: 0 })]) {
  const where = "path" in listen() ? "a socket" : "a port";

  test(`certificates, at ${where}: libnbd`, async () => {
    const node = await disk();
    const exports = [{ name: "", readOnly: false, node }];
    await using server = await serveNbd({ listen: listen(), exports, tls: { certificates } });
    assert.match(server.uri, /^nbds/);
    await works(x509(certificates, server), node);
    for (const bad of [strange, nameless]) await refusedPeer("nbdinfo", x509(bad, server));
    // The same in plain text.
    assert.match(await refusedPeer("nbdinfo", server.uri.replace(/^nbds/, "nbd")), /TLS/);
  });

  test(`pre-shared keys, at ${where}: libnbd and our own`, async () => {
    const node = await disk();
    const errors: string[] = [];
    const exports = [{ name: "", readOnly: false, node }];
    const onError = ({ code, message }: { code: string; message: string }) => errors.push(`${code} ${message}`);
    await using server = await serveNbd({ listen: listen(), exports, tls: { pskFile: psk }, onError });
    await works(withPsk(psk, "alice", server), node);
    await using own = await connectNbd(withPsk(psk, "bob", server));
    const bytes = Buffer.alloc(5);
    await own.read(1000, bytes);
    assert.equal(bytes.toString(), "zzzzz");
    assert.deepEqual(errors, []);
    await refusedPeer("nbdinfo", withPsk(otherPsk, "alice", server));
    await refusedPeer("nbdinfo", withPsk(psk, "mallory", server));
    await refusedPeer("nbdinfo", x509(certificates, server));
    assert.match(await refusedPeer("nbdinfo", server.uri.replace(/^nbds/, "nbd")), /TLS/);
    assert.ok(errors.length >= 2);
    for (const said of errors) assert.match(said, /^(refused|protocol) A client /);
  });
}

test("QEMU as a client, with both kinds", async () => {
  const node = await disk();
  const exports = [{ name: "", readOnly: true, node }];
  const port = { host: "127.0.0.1", port: 0 };
  await using byName = await serveNbd({ listen: port, exports, tls: { certificates } });
  await using byKey = await serveNbd({ listen: port, exports, tls: { pskFile: psk } });
  const keys = join(directory, "psk");
  mkdirSync(keys);
  copyFileSync(psk, join(keys, "keys.psk"));
  const ask = (server: NbdServer, ...objects: readonly string[]) => {
    assert.ok(!server.address.unix);
    const image = `driver=nbd,host=127.0.0.1,port=${server.address.port}${objects.length > 0 ? ",tls-creds=t" : ""}`;
    return runPeer(
      "qemu-io",
      ...objects.flatMap((object) => ["--object", object]),
      "-r",
      "-c",
      "read 0 4M",
      "--image-opts",
      image,
    );
  };
  const trusted = await ask(byName, `tls-creds-x509,id=t,dir=${certificates},endpoint=client`);
  assert.match(trusted.stdout, /read 4194304\/4194304 bytes/, trusted.stderr);
  const keyed = await ask(byKey, `tls-creds-psk,id=t,dir=${keys},username=alice,endpoint=client`);
  assert.match(keyed.stdout, /read 4194304\/4194304 bytes/, keyed.stderr);
  assert.match((await ask(byName)).stderr, /TLS/i);
  assert.notEqual((await ask(byName, `tls-creds-x509,id=t,dir=${strange},endpoint=client`)).status, 0);
});

test("a certificate that was revoked opens nothing", async () => {
  const gone = makeCertificates(join(directory, "revoked"));
  revoke(gone, "client");
  await using server = await serveNbd({
    listen: { path: socketPath() },
    exports: [{ name: "", readOnly: true, node: await disk() }],
    tls: { certificates: gone },
  });
  await refusedPeer("nbdinfo", x509(gone, server));
});

test("what is said in plain text before TLS, or in place of it, leads nowhere", async () => {
  const errors: string[] = [];
  await using server = await serveNbd({
    listen: { path: socketPath() },
    exports: [{ name: "", readOnly: true, node: await disk() }],
    tls: { certificates },
    onError: ({ message }) => errors.push(message),
  });
  for (const option of [OPTION.LIST, OPTION.GO, OPTION.INFO, OPTION.STRUCTURED_REPLY]) {
    await using client = await RawNbdClient.connect(server.address);
    assert.equal(await client.outcome(option), REPLY.ERR_TLS_REQD);
  }
  await using byName = await RawNbdClient.connect(server.address);
  byName.send(encodeOption(OPTION.EXPORT_NAME));
  await byName.closed;
  await using injected = await RawNbdClient.connect(server.address);
  injected.send(Buffer.concat([encodeOption(OPTION.STARTTLS), encodeOption(OPTION.LIST)]));
  await injected.closed;
  await using nonsense = await RawNbdClient.connect(server.address);
  assert.equal(await nonsense.outcome(OPTION.STARTTLS), REPLY.ACK);
  nonsense.send(Buffer.alloc(100, 0x55));
  await nonsense.closed;
  assert.match(errors.join("\n"), /did not begin TLS[\s\S]*plain text behind STARTTLS[\s\S]*failed to begin TLS/);
  await peer("nbdinfo", x509(certificates, server));
});

test("files that are missing or wrong are named before anybody can connect", async () => {
  const exports = [{ name: "", readOnly: true, node: await disk() }];
  const serve = (tls: { certificates: string } | { pskFile: string }) =>
    serveNbd({ listen: { path: socketPath() }, exports, tls });
  await assert.rejects(serve({ certificates: nameless }), { code: "not-found", message: /server-cert\.pem/ });
  await assert.rejects(serve({ pskFile: join(certificates, "ca-cert.pem") }), { code: "invalid-argument" });
});
