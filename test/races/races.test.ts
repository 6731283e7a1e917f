/**
 * Thousands of races, each of another disk. A failure says which one it was: `STREAMDISK_RACE="SHAPE/RUN"` runs that one alone.
 */
import { test } from "node:test";
import { pick, rng, seed } from "../support/seed.ts";
import { noCounts, race } from "./race.ts";
import type { Shape } from "./race-disk.ts";

const wanted: readonly string[] = (process.env.STREAMDISK_RACE ?? "").split("/").filter((part) => part !== "");

const shapes: readonly Shape[] = [
  { name: "qcow2-512", format: "qcow2", options: { cluster_size: "512" }, sectors: 1000 },
  { name: "qcow2-4K", format: "qcow2", options: { cluster_size: "4K" }, sectors: 2000 },
  { name: "qcow2-4K-v2", format: "qcow2", options: { cluster_size: "4K", compat: "v2" }, sectors: 2000 },
  { name: "qcow2-64K", format: "qcow2", options: { cluster_size: "64K" }, sectors: 3000 },
  { name: "qcow2-256K", format: "qcow2", options: { cluster_size: "256K" }, sectors: 4000 },
  {
    name: "qcow2-16K-extended",
    format: "qcow2",
    options: { cluster_size: "16K", extended_l2: "on" },
    sectors: 2000,
  },
  { name: "qed-4K", format: "qed", options: { cluster_size: "4K", table_size: "1" }, sectors: 2000 },
  { name: "qed-64K", format: "qed", options: { cluster_size: "64K" }, sectors: 3000 },
];

for (const shape of shapes) {
  test(`${shape.name} (seed ${seed})`, async (t) => {
    const runs = wanted[0] === undefined ? pick(30, 1000) : wanted[0] === shape.name ? Number.POSITIVE_INFINITY : 0;
    const counts = noCounts();
    let count = 0;
    for (let run = Number(wanted[1] ?? 0); count < runs; run++, count++) {
      try {
        await race(shape, rng(`race ${shape.name} ${run}`), counts);
      } catch (error) {
        const again = `STREAMDISK_SEED=${seed} STREAMDISK_RACE='${shape.name}/${run}'`;
        throw new Error(`${shape.name}/${run}: ${error instanceof Error ? error.stack : error}\nAgain: ${again}`);
      }
      if (wanted[1] !== undefined) break;
    }
    t.diagnostic(`cells ${count}`);
    t.diagnostic(JSON.stringify(counts));
  });
}
