/** A link to an NBD server that ends and begins again: who watches the source knows of both without having to ask. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { test } from "node:test";
import type { Clock } from "../../src/block/index.ts";
import { serveDisk } from "../../src/engine/index.ts";
import { SourceMemory } from "../../src/engine/source-memory.ts";
import { SourcesBelow } from "../../src/engine/sources-below.ts";
import { openSource } from "../../src/sources/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { startNbdkit } from "../support/nbd-servers.ts";

const MIB = 2 ** 20;
const PATTERN = ["pattern", `size=${MIB}`];

/** No time passes: a pause between two probes ends only when somebody ends it. */
const STILL: Clock = {
  now: () => 0,
  sleep: (_, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) resolve();
      signal?.addEventListener("abort", () => resolve(), { once: true });
    }),
};

test("a source is lost with its link, and back with it, before a probe is due", async () => {
  await using server = await startNbdkit(PATTERN);
  const heard: string[] = [];
  let changed: () => void = () => {};
  const sources = new SourcesBelow(
    () => {
      heard.push(sources.state(0).state);
      changed();
    },
    new SourceMemory([], () => {}),
    STILL,
  );
  const next = () =>
    new Promise<void>((resolve) => {
      changed = resolve;
    });
  await using node = sources.wrap(await openSource(server.uri, { readOnly: true }), server.uri);
  const lost = next();
  await server.stop();
  await lost;
  await assert.rejects(node.read(0, new Uint8Array(512)), { code: "source-lost" });
  const over = sources.watches[0]?.loss?.over;
  assert(over !== undefined);
  await server.start();
  await over;
  const sector = Buffer.alloc(512);
  await node.read(MIB - 512, sector);
  assert.equal(sector.readUIntBE(2, 6), MIB - 512);
  assert.deepEqual(heard, ["lost", "ok"]);
});

test("a disk that nobody reads tells that its source is lost, and that it is back", async (t) => {
  const image = join(temporaryDirectory(t), "vm.qcow2");
  await using server = await startNbdkit(PATTERN);
  await using disk = await serveDisk({ image, create: true, backing: server.uri, backingFormat: "raw" });
  const lost = once(disk, "source");
  await server.stop();
  assert.equal((await lost)[0].state, "lost");
  assert.equal((await disk.info()).source.state, "lost");
  const back = once(disk, "source");
  await server.start();
  assert.equal((await back)[0].state, "ok");
});
