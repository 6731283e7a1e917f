/**
 * A local backing file that is deleted, or replaced, while a disk is served: that is told at once, guests and the stream go on, and
 * the disk is what it would have been. Checked with QEMU's tools.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { copyFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type SourceState, serveDisk } from "../../src/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { noise, peer, startCli, temporaryDirectory } from "../support/cli.ts";
import { startServe } from "../support/serve.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;

function overlay(t: TestContext) {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const copy = join(directory, "copy.raw");
  const image = join(directory, "vm.qcow2");
  const content = noise(SIZE, 11);
  writeFileSync(base, content);
  copyFileSync(base, copy);
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image);
  const assertSame = (): void => {
    peer("qemu-img", "check", "-q", "-f", "qcow2", image);
    peer("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", image, copy);
  };
  return { directory, base, content, image, assertSame };
}

/** Another file of the same size gets its name. */
function replace(base: string): void {
  writeFileSync(`${base}.new`, Buffer.alloc(SIZE, 1));
  renameSync(`${base}.new`, base);
}

for (const [how, act] of [["deleted", unlinkSync] as const, ["replaced", replace] as const]) {
  test(`a backing file is ${how} under a guest and a stream`, async (t) => {
    const { base, content, image, assertSame } = overlay(t);
    await using disk = await serveDisk({ image });
    await using guest = await connectNbd(disk.uri);
    const bytes = Buffer.alloc(65536);
    await guest.read(0, bytes);
    // Well on its way, and far from its end.
    await disk.step({ length: MIB });
    await disk.stream({ speed: 65536 });
    assert.equal((await disk.info()).source.state, "ok");

    const told = once(disk, "source") as Promise<[SourceState]>;
    act(base);
    const [{ state, message }] = await told;
    assert.equal(state, "deleted");
    assert(message?.startsWith(`'${base}' was deleted or replaced`), message);
    const { source, hydrated } = await disk.info();
    assert.deepEqual([source.state, source.message, hydrated], ["deleted", message, false]);

    await guest.read(SIZE - 65536, bytes);
    assert(bytes.equals(content.subarray(SIZE - 65536)));
    await disk.setSpeed(undefined);
    await disk.hydrated();
    assert.deepEqual((await disk.info()).source, { state: "none", held: 0 });
    await guest.close();
    await disk.close();
    assertSame();
  });
}

test("of a chain each file counts, and a disk that was hydrated is told nothing", async (t) => {
  const { directory, base, image } = overlay(t);
  const top = join(directory, "top.qcow2");
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", top);
  await using disk = await serveDisk({ image: top });
  const messages: (string | undefined)[] = [];
  disk.on("source", ({ message }) => messages.push(message));
  for (const path of [base, image]) {
    const told = once(disk, "source");
    unlinkSync(path);
    await told;
  }
  assert.deepEqual([messages[0]?.includes(base), messages[1]?.includes(image)], [true, true]);
  await disk.stream();
  await disk.hydrated();
  await disk.close();
  assert.equal(messages.length, 2);
  assert.equal(JSON.parse(peer("qemu-img", "info", "--output=json", top))["backing-filename"], undefined);
});

test("a file that the disk needs no more may go", async (t) => {
  const { base, image, assertSame } = overlay(t);
  await using disk = await serveDisk({ image, stream: true });
  disk.on("source", () => assert.fail("told"));
  await disk.hydrated();
  unlinkSync(base);
  // Whatever the thread would tell comes before the answers to these.
  for (let i = 0; i < 3; i++) assert.equal((await disk.info()).source.state, "none");
  await disk.close();
  assertSame();
});

test("serve says it in its JSON lines", async (t) => {
  const { base, image } = overlay(t);
  const { serve } = await startServe([image]);
  t.after(() => serve[Symbol.asyncDispose]());
  unlinkSync(base);
  const said = (await serve.event("source")) as { state?: string; message?: string };
  assert.equal(said.state, "deleted");
  assert(said.message?.includes(base), said.message);
  await serve.event("status", (line) => "source" in line && (line.source as SourceState).state === "deleted");
  assert.equal((await serve.stop()).exit, 0);
});

test("and in a line of its own for people", async (t) => {
  const { base, image } = overlay(t);
  const { child, ended } = startCli(["serve", image, "--read-only"], {
    onLine: (line) => line.startsWith("Serving") && unlinkSync(base),
  });
  t.after(() => child.kill("SIGKILL"));
  child.stderr.once("data", () => child.kill("SIGINT"));
  const { exit, stderr } = await ended;
  assert.equal(exit, 0, stderr);
  assert.match(stderr, /^streamdisk: '\S+base\.raw' was deleted or replaced [^\n]+\n$/);
});
