/**
 * A served disk as a program has it, over sources of others: what it asks of them and what becomes of them in the end; steps,
 * speed and map; images that are themselves on a server.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { imageMap, type MapEntry, type StreamdiskError, serveDisk } from "../../src/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { makeOverlay, noise, peer, temporaryDirectory } from "../support/cli.ts";
import { serveRanges } from "../support/http-server.ts";
import { startNbdkit } from "../support/nbd-servers.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;

/** nbdkit with a base that is data throughout, and the reads that it has answered since it was started. */
async function loggedSource(t: TestContext) {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const content = noise(SIZE, 7);
  writeFileSync(base, content);
  const log = join(directory, "log");
  const server = await startNbdkit(["-r", "--filter=log", "file", base, `logfile=${log}`, "logappend=true"]);
  t.after(() => server[Symbol.asyncDispose]());
  const reads = () =>
    Array.from(
      readFileSync(log, "utf8").matchAll(/ Read id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+) /g),
      (line) => ({
        offset: Number(line[1]),
        length: Number(line[2]),
      }),
    );
  const options = {
    image: join(directory, "vm.qcow2"),
    create: true,
    backing: server.uri,
    backingFormat: "raw",
  } as const;
  return { content, server, reads, options };
}

const bytesOf = (reads: readonly { length: number }[]) => reads.reduce((sum, { length }) => sum + length, 0);

test("a stream asks for every byte once", async (t) => {
  const { reads, options } = await loggedSource(t);
  await using disk = await serveDisk({ ...options, stream: true });
  await disk.hydrated();
  const asked = reads().sort((a, b) => a.offset - b.offset);
  let end = 0;
  for (const { offset, length } of asked) {
    assert.equal(offset, end);
    end += length;
  }
  assert.equal(end, SIZE);
});

for (const copyOnRead of [true, false]) {
  test(`a guest that walks with small reads costs few requests, ${copyOnRead ? "and keeps" : "without"} copies`, async (t) => {
    const { content, reads, options } = await loggedSource(t);
    await using disk = await serveDisk({ ...options, copyOnRead });
    await using guest = await connectNbd(disk.uri);
    const block = Buffer.alloc(16384);
    for (let at = 0; at < 8 * MIB; at += block.length) {
      await guest.read(at, block);
      assert(block.equals(content.subarray(at, at + block.length)), `at ${at}`);
    }
    const asked = reads();
    assert(asked.length < 45, `${asked.length} requests`);
    // No more than it was ahead at the end.
    assert(bytesOf(asked) <= 9.25 * MIB, `${bytesOf(asked)} bytes`);
  });
}

test("a served disk is mapped and made larger, and does not show its base there", async (t) => {
  const { base, image } = makeOverlay(temporaryDirectory(t));
  const expected = JSON.parse(peer("qemu-img", "map", "--output=json", image)) as { start: number; length: number }[];
  await using disk = await serveDisk({ image, readOnly: false });
  assert.deepEqual((await disk.info()).below, [base]);
  const { entries } = await disk.mapPage({ limit: 1000 });
  assert.deepEqual(
    entries.map(({ start, length }) => ({ start, length })),
    expected.map(({ start, length }) => ({ start, length })),
  );
  const first = await disk.mapPage({ limit: 2 });
  assert.deepEqual([first.entries, first.next], [entries.slice(0, 2), entries[2]?.start]);
  assert.deepEqual((await disk.mapPage({ offset: first.next ?? 0, limit: 1000 })).entries, entries.slice(2));

  await assert.rejects(disk.resize(16 * MIB), { code: "refused" });
  await disk.resize(16 * MIB, { shrink: true });
  await disk.resize(32 * MIB);
  await using guest = await connectNbd(disk.uri);
  const beyond = Buffer.alloc(16 * MIB, 1);
  await guest.read(16 * MIB, beyond);
  assert(beyond.equals(Buffer.alloc(16 * MIB)));
  const { length, missingBytes } = await disk.info();
  assert.equal(length, 32 * MIB);
  assert(missingBytes < 16 * MIB);
});

/** nbdkit with a base that is data throughout, and an overlay over it. */
async function plainSource(t: TestContext, ...filters: string[]) {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const content = noise(SIZE, 9);
  writeFileSync(base, content);
  const server = await startNbdkit(["-r", ...filters, "file", base]);
  t.after(() => server[Symbol.asyncDispose]());
  const image = join(directory, "vm.qcow2");
  peer("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", server.uri, "-F", "raw", image, `${SIZE}`);
  return { content, server, image, options: { image, allowBacking: [server.uri] } };
}

/** The same, of which the server ends with its last client. */
const leavingSource = (t: TestContext) => plainSource(t, "--filter=exitlast");

test("a source is let go of when nothing is missing, and the export lives on", async (t) => {
  const { content, server, options } = await leavingSource(t);
  await using disk = await serveDisk({ ...options, stream: true });
  await using guest = await connectNbd(disk.uri);
  await disk.hydrated();
  await server.ended();
  await guest.write(MIB, content.subarray(0, 4096));
  await guest.flush();
  const bytes = Buffer.alloc(MIB);
  await guest.read(MIB, bytes);
  assert(bytes.equals(Buffer.concat([content.subarray(0, 4096), content.subarray(MIB + 4096, 2 * MIB)])));
  const { hydrated, source, missingBytes } = await disk.info();
  assert.deepEqual({ hydrated, state: source.state, missingBytes }, { hydrated: true, state: "none", missingBytes: 0 });
});

test("in steps too, with a guest that writes", async (t) => {
  const { content, server, options } = await leavingSource(t);
  await using disk = await serveDisk(options);
  await using guest = await connectNbd(disk.uri);
  const written = content.subarray(0, 65536);
  const expected = Buffer.from(content);
  let copied = 0;
  for (
    let step = await disk.step({ length: 4 * MIB });
    ;
    step = await disk.step({ offset: step.next, length: 4 * MIB })
  ) {
    copied += step.copied;
    if (step.done) break;
    await guest.write(step.next, written);
    expected.set(written, step.next);
  }
  // What the guest has written was not missing any more.
  assert.equal(copied, SIZE - 3 * 65536);
  await disk.hydrated();
  await server.ended();
  const bytes = Buffer.alloc(SIZE);
  await guest.read(0, bytes);
  assert(bytes.equals(expected));
});

test("the speed of a stream can be changed while it runs; a step has to wait for its end", async (t) => {
  const { options } = await plainSource(t);
  await using disk = await serveDisk({ ...options, stream: { speed: 65536 } });
  await assert.rejects(disk.step(), { code: "in-use" });
  // At first it would take four minutes.
  await disk.setSpeed(undefined);
  await disk.hydrated();
  await assert.rejects(disk.setSpeed(-1), { code: "invalid-argument" });
});

test("a map tells what is local and what is missing, as imageMap does", async (t) => {
  const { image, options } = await plainSource(t);
  await using disk = await serveDisk(options);
  await using guest = await connectNbd(disk.uri);
  const sector = Buffer.alloc(4096, 1);
  await guest.write(3 * MIB, sector);
  await guest.flush();
  const entries: MapEntry[] = [];
  for await (const entry of disk.map()) entries.push(entry);
  const [before, local, after] = entries;
  assert.equal(entries.length, 3);
  assert.deepEqual([before?.start, before?.length, before?.missing, before?.depth], [0, 3 * MIB, true, 1]);
  assert.deepEqual([local?.start, local?.length, local?.missing, local?.depth], [3 * MIB, 65536, false, 0]);
  assert.equal((after?.start ?? 0) + (after?.length ?? 0), SIZE);
  await disk.close();
  const closed: MapEntry[] = [];
  for await (const entry of imageMap(image, { allowBacking: "any" })) closed.push(entry);
  assert.deepEqual(entries, closed);
});

test("an image on an NBD server is served on, to be written too; a guest that must wait for it waits", async (t) => {
  const base = join(temporaryDirectory(t), "base.raw");
  const content = noise(SIZE, 3);
  writeFileSync(base, content);
  await using server = await startNbdkit(["file", base]);
  for (const readOnly of [true, false]) {
    await using disk = await serveDisk({ image: server.uri, format: "raw", readOnly });
    await using guest = await connectNbd(disk.uri);
    assert.equal(guest.readOnly, readOnly);
    const bytes = Buffer.alloc(MIB);
    await guest.read(MIB, bytes);
    assert(bytes.equals(content.subarray(MIB, 2 * MIB)));
    await server.stop();
    const reading = guest.read(0, bytes);
    await server.start();
    await reading;
    assert(bytes.equals(content.subarray(0, MIB)));
    if (readOnly) continue;
    await guest.write(4096, Buffer.alloc(512, 0xaa));
    await guest.flush();
    assert(readFileSync(base).subarray(4096, 4608).equals(Buffer.alloc(512, 0xaa)));
  }
});

test("an image on a server that only lets it be read is refused to guests that would write", async (t) => {
  const base = join(temporaryDirectory(t), "base.raw");
  writeFileSync(base, noise(MIB, 3));
  await using nbd = await startNbdkit(["-r", "file", base]);
  await using http = await serveRanges("secret");
  for (const image of [nbd.uri, `${http.origin}${base}?token=secret`]) {
    await assert.rejects(serveDisk({ image }), ({ code, message }: StreamdiskError) => {
      assert.equal(code, "refused");
      assert.match(message, /--read-only/);
      assert.doesNotMatch(message, /secret/);
      return true;
    });
    await using disk = await serveDisk({ image, readOnly: true });
    assert.doesNotMatch(JSON.stringify([await disk.info(), disk.image]), /secret/);
    await using guest = await connectNbd(disk.uri);
    const bytes = Buffer.alloc(MIB);
    await guest.read(0, bytes);
    assert(bytes.equals(readFileSync(base)));
  }
  await assert.rejects(serveDisk({ image: nbd.uri, create: true, size: MIB }), { code: "invalid-argument" });
});

/** base.raw under middle.qcow2 under vm.qcow2; the middle has data of its own, and zeroes where the base has data. */
function chainOfThree(directory: string) {
  const [base, middle, image] = ["base.raw", "middle.qcow2", "vm.qcow2"].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  const content = noise(SIZE, 11);
  writeFileSync(base, content);
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", middle);
  const change = ["-c", "write -q -P 0x77 1M 3M", "-c", "write -q -z 6M 2M"];
  peer("qemu-io", "-f", "qcow2", ...change, middle);
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-b", middle, "-F", "qcow2", image);
  peer("qemu-io", "-f", "qcow2", "-c", "write -q -P 0x33 2M 512k", image);
  content
    .fill(0x77, MIB, 4 * MIB)
    .fill(0x33, 2 * MIB, 2.5 * MIB)
    .fill(0, 6 * MIB, 8 * MIB);
  return { base, middle, image, content };
}

test("a stream down to a base takes only what lies above it, zeroes too, and the disk lies over the base then", async (t) => {
  const directory = temporaryDirectory(t);
  const { base, middle, image, content } = chainOfThree(directory);
  await using disk = await serveDisk({ image });
  await using guest = await connectNbd(disk.uri);
  const reached = once(disk, "base-reached");
  await disk.stream({ base, speed: MIB });
  // What a guest writes meanwhile stays.
  await guest.write(3 * MIB, Buffer.alloc(4096, 9));
  content.fill(9, 3 * MIB, 3 * MIB + 4096);
  await disk.cancelStream();
  assert.deepEqual((await disk.info()).below, [middle, base]);
  await disk.stream({ base });
  await reached;
  const { hydrated, below, source, missingBytes } = await disk.info();
  assert.deepEqual([hydrated, below, source.state], [false, [base], "ok"]);
  assert.equal(missingBytes, SIZE - 5 * MIB);
  await assert.rejects(disk.hydrated(), { code: "refused" });
  rmSync(middle);
  const bytes = Buffer.alloc(SIZE);
  await guest.read(0, bytes);
  assert(bytes.equals(content));
  await guest.close();
  await disk.close();
  assert.equal(JSON.parse(peer("qemu-img", "info", "--output=json", image))["full-backing-filename"], base);
  const expected = join(directory, "expected.raw");
  writeFileSync(expected, content);
  peer("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, expected);
  peer("qemu-img", "check", "-q", image);
});

test("a base that is no layer below a disk is refused by name, with the layers", async (t) => {
  const directory = temporaryDirectory(t);
  const { base, middle, image } = chainOfThree(directory);
  await using disk = await serveDisk({ image });
  const other = join(directory, "other.raw");
  writeFileSync(other, "");
  const chain = `'${image}' over '${middle}' over '${base}'`;
  await assert.rejects(disk.stream({ base: other }), {
    code: "invalid-argument",
    message: `The base '${other}' is not in the backing chain of '${image}': that is ${chain}`,
  });
  await assert.rejects(disk.stream({ base: image }), { code: "invalid-argument" });
  await assert.rejects(disk.stream({ base: "base.raw" }), { code: "not-found" });
  assert.deepEqual(await disk.base(base), { reference: base, format: "raw" });
});

test("a base below an image that is away is waited for, and read on when it is reached", async (t) => {
  const directory = temporaryDirectory(t);
  const { base, middle, image, content } = chainOfThree(directory);
  await using server = await startNbdkit(["-r", "file", middle]);
  peer("qemu-img", "rebase", "-q", "-u", "-b", server.uri, "-F", "qcow2", image);
  await server.stop();
  await using disk = await serveDisk({ image, allowBacking: [server.uri, base] });
  await assert.rejects(disk.base(base), { code: "source-lost" });
  const reached = once(disk, "base-reached");
  await disk.stream({ base });
  await server.start();
  await reached;
  assert.deepEqual((await disk.info()).below, [base]);
  await using guest = await connectNbd(disk.uri);
  const bytes = Buffer.alloc(SIZE);
  await guest.read(0, bytes);
  assert(bytes.equals(content));
});
