/** qcow2 through crashes: what was acknowledged is there, what was not written is as the base (ADR 1). */
import { test } from "node:test";
import { temporaryDirectory } from "../support/cli.ts";
import { pick, seed } from "../support/seed.ts";
import { runCampaign } from "./campaign.ts";
import { makeDisk, type Shape } from "./disks.ts";

const qcow2 = (
  name: string,
  sectors: number,
  options: Record<string, string>,
  made: Pick<Shape, "compressed" | "snapshot"> = {},
): Shape => {
  return { name: `qcow2-${name}`, format: "qcow2", options, sectors, ...made };
};

const shapes: readonly Shape[] = [
  qcow2("512", 1500, { cluster_size: "512" }),
  qcow2("512-counts-64", 2500, { cluster_size: "512", refcount_bits: "64" }),
  qcow2("512-v2", 1500, { cluster_size: "512", compat: "v2" }),
  qcow2("4K", 6000, { cluster_size: "4K" }),
  qcow2("4K-counts-1", 6000, { cluster_size: "4K", refcount_bits: "1", lazy_refcounts: "on" }),
  qcow2("4K-v2", 6000, { cluster_size: "4K", compat: "v2" }),
  qcow2("16K-extended", 4000, { cluster_size: "16K", extended_l2: "on" }),
  qcow2("64K", 4000, { cluster_size: "64K" }),
  qcow2("512-snapshot", 1500, { cluster_size: "512" }, { snapshot: true }),
  qcow2("4K-v2-snapshot", 4000, { cluster_size: "4K", compat: "v2" }, { snapshot: true }),
  qcow2("16K-extended-snapshot", 4000, { cluster_size: "16K", extended_l2: "on" }, { snapshot: true }),
  qcow2("4K-compressed", 4000, { cluster_size: "4K", lazy_refcounts: "on" }, { compressed: true }),
  qcow2("4K-v2-compressed", 4000, { cluster_size: "4K", compat: "v2" }, { compressed: true }),
  qcow2("16K-extended-both", 4000, { cluster_size: "16K", extended_l2: "on" }, { compressed: true, snapshot: true }),
];

for (const shape of shapes) {
  test(`${shape.name} (seed ${seed})`, async (t) => {
    const directory = temporaryDirectory(t);
    const result = await runCampaign({
      shape: shape.name,
      makeDisk: (random) => makeDisk(shape, random, directory),
      points: pick(40, 500),
      directory,
    });
    t.diagnostic(`cells ${result.points}`);
  });
}
