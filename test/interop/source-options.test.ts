/**
 * Sources that speak TLS: what the user says of certificates and keys reaches them from every command and from the library; without
 * it, or with the wrong, nothing is read, and nothing goes over the wire in plain text.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { serveDisk } from "../../src/engine/index.ts";
import { imageInfo, imageMap, openImage, type SourceOptions, streamImage } from "../../src/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import {
  assertComplete,
  assertFails,
  cli,
  cliOk,
  makeOverlay,
  noise,
  peer,
  temporaryDirectory,
} from "../support/cli.ts";
import { serveRanges } from "../support/http-server.ts";
import { type NbdServerProcess, startNbdkit, startQemuNbd } from "../support/nbd-servers.ts";
import { startServe } from "../support/serve.ts";
import { makeCertificates, makePskFile } from "../support/tls-files.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-source-options-"));
after(() => rmSync(directory, { recursive: true, force: true }));
const certificates = join(directory, "certificates");
const strange = join(directory, "strange");
const psk = join(directory, "keys.psk");
const caFile = join(certificates, "ca-cert.pem");

before(() => {
  makeCertificates(certificates);
  makeCertificates(strange);
  makePskFile(psk, "alice");
});

/** A kind of source, and what opens it. */
interface Kind {
  readonly name: string;
  start(base: string): Promise<AsyncDisposable & { readonly uri: string }>;
  readonly flags: () => string[];
  readonly options: () => SourceOptions;
  /** What is not enough. */
  readonly wrong: () => string[];
  /** The exit code then. */
  readonly untold: number;
}

const KINDS: readonly Kind[] = [
  {
    name: "nbds with certificates (qemu-nbd)",
    start: (base) => {
      const tls = ["--object", `tls-creds-x509,id=t,endpoint=server,dir=${certificates}`, "--tls-creds", "t"];
      return startQemuNbd(["-r", "-f", "raw", ...tls, base], { tcp: true, tls: true });
    },
    flags: () => ["--source-tls-certificates", certificates],
    options: () => ({ tlsCertificates: certificates }),
    wrong: () => ["--source-tls-certificates", strange],
    untold: 77,
  },
  {
    name: "nbds+unix with a pre-shared key (nbdkit)",
    start: (base) => startNbdkit(["-r", "--tls=require", `--tls-psk=${psk}`, "file", base], { tls: true }),
    flags: () => ["--source-tls-psk-file", psk],
    options: () => ({ tlsPskFile: psk }),
    wrong: () => ["--source-ca-file", caFile],
    untold: 64,
  },
  {
    name: "https with an authority of one's own",
    start: async (base) => {
      const server = await serveRanges("secret", 0, certificates);
      return {
        uri: `${server.origin}${base}?token=secret`,
        [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
      };
    },
    flags: () => ["--source-ca-file", caFile],
    options: () => ({ caFile }),
    wrong: () => ["--source-ca-file", join(strange, "ca-cert.pem")],
    untold: 77,
  },
];

test("every command that opens URIs tells their servers what it was told", async (t) => {
  const { start, flags } = KINDS[0] as Kind;
  const overlay = makeOverlay(temporaryDirectory(t));
  await using server = await start(overlay.base);
  const { uri } = server;
  const told = flags();
  const at = (file: string): string => join(overlay.directory, file);

  await cliOk(["map", uri, ...told]);
  assertFails(await cli(["check", uri, ...told]), 63);
  await cliOk(["compare", uri, overlay.base, ...told]);
  await cliOk(["convert", uri, at("copy.raw"), ...told]);
  assert(readFileSync(at("copy.raw")).equals(readFileSync(overlay.base)));

  await cliOk(["rebase", overlay.image, "--backing", uri, "--backing-format", "raw", ...told]);
  const allowed = ["--allow-backing", uri];
  await cliOk(["resize", overlay.image, "32M", ...allowed, ...told]);
  assertFails(await cli(["stream", overlay.image, ...allowed]), 77);
  await cliOk(["stream", overlay.image, ...allowed, ...told]);

  await cliOk(["create", at("new.qcow2"), "--backing", uri, "--backing-format", "raw", ...told]);
  const { serve, uri: exported } = await startServe([at("new.qcow2"), ...allowed, ...told, "--stream"]);
  t.after(() => serve[Symbol.asyncDispose]());
  await serve.event("hydrated");
  peer("qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", exported, overlay.base);
  assert.equal((await serve.stop()).exit, 0);
  assertComplete(overlay);
});

for (const { name, start, flags, options, wrong, untold } of KINDS) {
  test(`${name}: with what it needs, and not without`, async (t) => {
    const base = join(temporaryDirectory(t), "base.raw");
    writeFileSync(base, noise(4 * 2 ** 20, 1));
    await using server = await start(base);
    assertFails(await cli(["info", server.uri]), untold);
    assertFails(await cli(["info", server.uri, ...wrong()]), untold);
    const info = JSON.parse((await cliOk(["info", "--json", server.uri, ...flags()])).stdout) as Record<
      string,
      unknown
    >;
    assert.equal(info["virtual-size"], 4 * 2 ** 20);

    const sourceOptions = options();
    await assert.rejects(imageInfo(server.uri), { code: untold === 64 ? "invalid-argument" : "refused" });
    assert.equal((await imageInfo(server.uri, { sourceOptions })).format, "raw");
    for await (const { data, zero } of imageMap(server.uri, { sourceOptions })) assert.notEqual(data, zero);
    const image = join(base, "../new.qcow2");
    const backing = { backing: server.uri, backingFormat: "raw" } as const;
    await using disk = await serveDisk({ image, create: true, ...backing, sourceOptions });
    await using guest = await connectNbd(disk.uri);
    const bytes = Buffer.alloc(65536);
    await guest.read(0, bytes);
    assert(bytes.equals(readFileSync(base).subarray(0, 65536)));
    await disk.close();
    for await (const _ of streamImage(image, { allowBacking: [server.uri], sourceOptions }));
    await using opened = await openImage(image, { readOnly: true });
    assert.equal(opened.layers.length, 1);
  });
}

test("a server without TLS is not spoken to by nbds, and what is told changes no nbd into nbds", async (t) => {
  const base = join(temporaryDirectory(t), "base.raw");
  writeFileSync(base, Buffer.alloc(65536, 1));
  await using plain: NbdServerProcess = await startNbdkit(["-r", "file", base], { tcp: true });
  const secure = plain.uri.replace("nbd:", "nbds:");
  for (const told of [
    ["--source-tls-certificates", certificates],
    ["--source-tls-psk-file", psk],
  ]) {
    assertFails(await cli(["info", secure, ...told]), 77, /TLS/);
    assert.match((await cliOk(["info", plain.uri, ...told])).stdout, /virtual size: 64 KiB/);
  }
});

test("files that are not there, or are not what they should be, are named", async () => {
  const none = join(directory, "none");
  const text = join(directory, "text");
  writeFileSync(text, "no certificate");
  assertFails(await cli(["info", "nbds://127.0.0.1:1/", "--source-tls-certificates", none]), 66, none);
  assertFails(await cli(["info", "nbds://127.0.0.1:1/", "--source-tls-psk-file", none]), 66, none);
  assertFails(await cli(["info", "https://127.0.0.1:1/x", "--source-ca-file", none]), 66, none);
  assertFails(await cli(["info", "https://127.0.0.1:1/x", "--source-ca-file", text]), 64, text);
  assertFails(await cli(["info", "https://127.0.0.1:1/x", "--source-ca-file", caFile]), 69, /ECONNREFUSED/);
});
