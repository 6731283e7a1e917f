import assert from "node:assert/strict";
import { copyFile, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { imageChainInfo, imageInfo, type StreamProgress, stepImage, streamImage } from "../../src/index.ts";
import { between } from "../support/draw.ts";
import { makeZooImage, ZOO_OVERLAYS, type ZooImage } from "../support/image-zoo.ts";
import { qemuImg } from "../support/qemu.ts";
import { rng } from "../support/seed.ts";

let directory: string;
const zoo = new Map<string, ZooImage>();
before(async () => {
  directory = await mkdtemp(join(tmpdir(), "streamdisk-stream-"));
});
after(() => rm(directory, { recursive: true, force: true }));

/** A fresh copy to stream into; the original is what it is compared with. */
async function copyOf(name: string): Promise<ZooImage> {
  const image = makeZooImage(name, directory, zoo);
  const path = join(directory, `copy-of-${name.replaceAll(" ", "-")}.${image.format}`);
  await copyFile(image.path, path);
  return { ...image, path };
}

/** QEMU finds no fault in it, and the same content as in the original. */
function mustBeWhole({ name, path, format }: ZooImage): void {
  qemuImg("check", "-q", "-f", format, path);
  const original = makeZooImage(name, directory, zoo).path;
  assert.match(qemuImg("compare", "-f", format, "-F", format, original, path), /^Images are identical\.$/m);
}

async function run(path: string, options: Parameters<typeof streamImage>[1] = {}): Promise<StreamProgress> {
  let last: StreamProgress | undefined;
  for await (const progress of streamImage(path, options)) last = progress;
  assert.ok(last !== undefined);
  return last;
}

for (const name of ZOO_OVERLAYS) {
  test(`a streamed image stands alone and is what it was: ${name}`, async () => {
    const image = await copyOf(name);
    const last = await run(image.path);
    assert.equal(last.state, "completed");
    mustBeWhole(image);
    const peer = JSON.parse(qemuImg("info", "--output=json", "-f", image.format, image.path));
    assert.equal(peer["backing-filename"], undefined);
    const info = await imageInfo(image.path);
    assert.equal(info["missing-bytes"], 0);
    assert.equal(info["local-bytes"], last.localBytes);
    // A second run finds nothing to do.
    assert.equal((await run(image.path)).copiedBytes, 0);
  });

  test(`steps of random size come to the same end: ${name}`, async () => {
    const image = await copyOf(name);
    const random = rng(`steps ${name}`);
    let offset = 0;
    for (let count = 0; ; count++) {
      assert.ok(count < 2000);
      const length = between(random, 1, 2_000_000);
      const step = await stepImage(image.path, random() < 0.5 ? { offset, length } : { length });
      if (step.done) break;
      offset = step.next;
    }
    mustBeWhole(image);
    assert.equal((await imageInfo(image.path))["backing-filename"], undefined);
  });

  test(`down to a base, which then is the backing file: ${name}`, async () => {
    const image = await copyOf(name);
    const chain = await imageChainInfo(image.path);
    const base = chain[between(rng(`base ${name}`), 1, chain.length - 1)]!;
    const detectZeroes = rng(`detect ${name}`)() < 0.5;
    await run(image.path, { base: base.filename, detectZeroes });
    const after = await imageChainInfo(image.path);
    assert.equal(after[1]?.filename, base.filename);
    const below = JSON.parse(qemuImg("info", "--output=json", "-f", image.format, image.path));
    assert.equal(
      below["backing-filename-format"],
      image.format === "qed" && base.format !== "raw" ? undefined : base.format,
    );
    assert.equal(after[0]?.["virtual-size"], chain[0]?.["virtual-size"]);
    mustBeWhole(image);
  });
}

test("known-zero terabytes cost nothing", async () => {
  const base = join(directory, "huge.raw");
  qemuImg("create", "-q", "-f", "raw", base, "4T");
  for (const format of ["qcow2", "qed"]) {
    const path = join(directory, `huge.${format}`);
    qemuImg("create", "-q", "-f", format, "-b", base, "-F", "raw", path);
    const last = await run(path);
    assert.equal(last.zeroBytes, 4 * 2 ** 40);
    assert.ok((await stat(path)).blocks * 512 < 2 ** 20);
  }
});

test("a second stream of an image that is being streamed is refused", async () => {
  const image = await copyOf("qcow2 over raw");
  for await (const _ of streamImage(image.path, { speed: 65536 })) {
    await assert.rejects(run(image.path), { code: "in-use" });
    await assert.rejects(stepImage(image.path), { code: "in-use" });
    break;
  }
  await run(image.path);
  mustBeWhole(image);
});

test("an abort leaves a valid image; the next stream goes on", async () => {
  const image = await copyOf("qed over raw");
  const controller = new AbortController();
  const states: string[] = [];
  await assert.rejects(
    async () => {
      for await (const { state } of streamImage(image.path, { speed: 500_000, signal: controller.signal })) {
        states.push(state);
        controller.abort();
      }
    },
    { name: "AbortError" },
  );
  assert.equal(states.at(-1), "cancelled");
  mustBeWhole(image);
  assert.notEqual((await imageInfo(image.path))["backing-filename"], undefined);
  await run(image.path);
  mustBeWhole(image);
});

test("an image with internal snapshots keeps its link, and nothing is fetched", async () => {
  const image = await copyOf("qcow2 over raw");
  qemuImg("snapshot", "-c", "before", image.path);
  const message = /has internal snapshots \('before'\), which read through its backing file/;
  const { blocks } = await stat(image.path);
  await assert.rejects(run(image.path), { code: "refused", message });
  await assert.rejects(stepImage(image.path), { code: "refused", message });
  assert.equal((await stat(image.path)).blocks, blocks);
});

test("a base that is not below the image is refused with the chain", async () => {
  const image = await copyOf("qcow2 over raw");
  const other = makeZooImage("raw long", directory, zoo);
  await assert.rejects(run(image.path, { base: other.path }), {
    code: "invalid-argument",
    message:
      /raw-long.raw' is not in the backing chain of .*: that is '.*copy-of-qcow2-over-raw.qcow2' over '.*raw.raw'/,
  });
  await assert.rejects(run(image.path, { base: image.path }), {
    code: "invalid-argument",
    message: /is the image itself/,
  });
  await assert.rejects(run(image.path, { base: join(directory, "gone") }), { code: "not-found" });
  await assert.rejects(run(other.path), { code: "invalid-argument", message: /is a raw image/ });
});
