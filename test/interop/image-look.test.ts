import assert from "node:assert/strict";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { imageChainInfo, imageInfo, imageMap, type MapEntry, openImage } from "../../src/index.ts";
import { makeZooImage, ZOO_NAMES, ZOO_OVERLAYS, type ZooImage } from "../support/image-zoo.ts";
import { qemuImg } from "../support/qemu.ts";

let directory: string;
const zoo = new Map<string, ZooImage>();
before(async () => {
  directory = await mkdtemp(join(tmpdir(), "streamdisk-look-"));
});
after(() => rm(directory, { recursive: true, force: true }));

for (const name of ZOO_NAMES) {
  test(`map and info say what qemu-img says: ${name}`, async () => {
    const { path, format } = makeZooImage(name, directory, zoo);
    const entries: MapEntry[] = [];
    for await (const entry of imageMap(path, { format })) entries.push(entry);
    const peer = JSON.parse(qemuImg("map", "--output=json", "-f", format, path));
    assert.deepEqual(
      entries.map(({ missing, ...entry }) => entry),
      withoutEmptyPlaces(peer),
    );
    const bytes = (choose: (entry: MapEntry) => boolean): number =>
      entries.filter(choose).reduce((sum, { length }) => sum + length, 0);

    const info = await imageInfo(path, { format });
    fieldsOf(info, JSON.parse(qemuImg("info", "--output=json", "-f", format, path)));
    assert.equal(
      info["local-bytes"],
      bytes(({ data, depth }) => data && depth === 0),
    );
    if (!ZOO_OVERLAYS.includes(name)) assert.equal(info["missing-bytes"], 0);
    // A cluster that needs one byte needs all of it.
    assert.ok((info["missing-bytes"] ?? 0) >= bytes(({ missing }) => missing));
    assert.equal(info["local-bytes"] + info["zero-bytes"] + (info["missing-bytes"] ?? 0), info["virtual-size"]);

    const chain = await imageChainInfo(path, { format });
    const peerChain = JSON.parse(qemuImg("info", "--output=json", "--backing-chain", "-f", format, path));
    assert.equal(chain.length, peerChain.length);
    for (const [index, layer] of chain.entries()) fieldsOf(layer, peerChain[index]);
  });
}

test("a relative name is seen from where the image was named, as with qemu-img", async () => {
  const below = join(directory, "relative.raw");
  qemuImg("create", "-q", "-f", "raw", below, "1M");
  const path = join(directory, "relative.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", "relative.raw", "-F", "raw", path);
  fieldsOf(await imageInfo(path), JSON.parse(qemuImg("info", "--output=json", path)));
});

test("an image in use, or without its backing file, is described all the same", async () => {
  const { path } = makeZooImage("qcow2 over raw", directory, zoo);
  const calm = await imageInfo(path);
  {
    await using _image = await openImage(path);
    const { warnings, ...figures } = await imageInfo(path);
    assert.deepEqual({ ...figures, warnings: [] }, { ...calm, "dirty-flag": figures["dirty-flag"] });
    assert.match(warnings.join(), /is being written by this process .*: what is read from it may be out of date/);
    for await (const _ of imageMap(path));
  }
  const orphan = join(directory, "orphan.qcow2");
  await copyFile(path, orphan);
  qemuImg("rebase", "-u", "-b", "gone.raw", "-F", "raw", orphan);
  const info = await imageInfo(orphan);
  assert.equal(info["local-bytes"], calm["local-bytes"]);
  assert.equal(info["missing-bytes"], undefined);
  assert.match(info.warnings.join(), /gone.raw' of .*orphan.qcow2' is not there/);
  assert.equal((await imageChainInfo(orphan)).length, 1);
  await assert.rejects(
    async () => {
      for await (const _ of imageMap(orphan));
    },
    { code: "not-found" },
  );
});

/** Every field of the peer's is there with the same value. */
function fieldsOf(ours: object, peers: object): void {
  const seen = Object.fromEntries(Object.entries(ours).filter(([name]) => name in peers));
  assert.deepEqual(JSON.parse(JSON.stringify(seen)), peers);
}

/** With extended L2 qemu-img tells the place of parts that nothing was ever written to; we don't. */
function withoutEmptyPlaces(peers: Omit<MapEntry, "missing">[]): Omit<MapEntry, "missing">[] {
  const joined: Omit<MapEntry, "missing">[] = [];
  for (const { offset, ...entry } of peers) {
    const last = joined.at(-1);
    if (entry.present) joined.push(offset === undefined ? entry : { ...entry, offset });
    else if (last?.present === false && last.depth === entry.depth) {
      joined[joined.length - 1] = { ...last, length: last.length + entry.length };
    } else joined.push(entry);
  }
  return joined;
}
