/** QED through crashes: what was acknowledged is there, what was not written is as the base (ADR 1). */
import { test } from "node:test";
import { temporaryDirectory } from "../support/cli.ts";
import { pick, seed } from "../support/seed.ts";
import { runCampaign } from "./campaign.ts";
import { makeDisk, type Shape } from "./disks.ts";

const shapes: readonly Shape[] = [
  { name: "qed-4K", format: "qed", options: { cluster_size: "4K", table_size: "2" }, sectors: 8000 },
  { name: "qed-64K", format: "qed", options: { cluster_size: "64K", table_size: "2" }, sectors: 4000 },
];

for (const shape of shapes) {
  test(`${shape.name} (seed ${seed})`, async (t) => {
    const directory = temporaryDirectory(t);
    const result = await runCampaign({
      shape: shape.name,
      makeDisk: (random) => makeDisk(shape, random, directory),
      points: pick(40, 1000),
      directory,
    });
    t.diagnostic(`cells ${result.points}`);
  });
}
