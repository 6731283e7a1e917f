import assert from "node:assert/strict";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { SpeedLimits } from "./speed-limits.ts";

test("of the places that a source lies below the longest counts, and what lies there shares its limit", async () => {
  const sources = { "nbd://Host/": { speed: 5 }, "nbd://host/big": { speed: 9 }, "https://web/a": { speed: 3 } };
  const limits = await SpeedLimits.of({ sources, sourceSpeed: 7, hostSpeed: 20 }, new MemoryStore());
  for (const [uri, name, speed] of [
    ["nbd://host/x", "nbd://host/", 5],
    ["nbd://HOST/y?tls-certificates=/z", "nbd://host/", 5],
    ["nbd://host/big", "nbd://host/big", 9],
    ["nbd://host/bigger", "nbd://host/", 5],
    ["nbd://host.evil/big", "each nbd://host.evil/big", 7],
    ["https://web/a/b", "https://web/a", 3],
    ["/images/base.raw", "each /images/base.raw", 7],
  ] as const) {
    assert.deepEqual(limits.over(uri), { name, speed }, uri);
  }
  assert.deepEqual(limits.all, { name: "all", speed: 20 });
});

test("a path is what it leads to", async (t) => {
  const home = temporaryDirectory(t);
  mkdirSync(join(home, "real"));
  symlinkSync("real", join(home, "link"));
  const limits = await SpeedLimits.of({ sources: { [join(home, "link")]: { speed: 5 } } }, new MemoryStore());
  assert.equal(limits.over(join(home, "real/base.raw"))?.speed, 5);
  assert.equal(limits.over(join(home, "realer/base.raw")), undefined);
});

test("what was said through the API counts for more than the settings, and outlives them", async () => {
  const store = new MemoryStore();
  const settings = { hostSpeed: 20, sources: { "nbd://host": { speed: 5 } } };
  const limits = await SpeedLimits.of(settings, store);
  assert.deepEqual(await limits.set("all", 30), { place: "all", speed: 30, setBy: "api" });
  await limits.set("NBD://host", null);
  await limits.set("each", 1);
  const again = await SpeedLimits.of(settings, store);
  assert.deepEqual(again.views, [
    { place: "all", speed: 30, setBy: "api" },
    { place: "each", speed: 1, setBy: "api" },
    { place: "nbd://host", speed: null, setBy: "api" },
  ]);
  assert.equal(again.over("nbd://host/x"), undefined, "no limit, also not that of each");
  assert.deepEqual(await again.set("all", undefined), { place: "all", speed: 20, setBy: "settings" });
  assert.deepEqual(await again.set("each", undefined), { place: "each", speed: null, setBy: "default" });
});

test("what is no place is refused", async () => {
  const limits = await SpeedLimits.of({}, new MemoryStore());
  for (const place of ["", "images", "ftp://host/", "every"]) {
    await assert.rejects(limits.set(place, 1), /is no place|not supported/, place);
  }
});
