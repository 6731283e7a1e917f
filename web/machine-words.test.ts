import assert from "node:assert/strict";
import { test } from "node:test";
import { endOf, type Machine, machineCondition, machineDiskCondition } from "./machine-words.ts";

const MACHINE: Machine = { name: "web", state: "running", disks: [], createdAt: 1 };

test("a machine is what QEMU says, and what it was paused by counts for more", () => {
  const word = (parts: Partial<Machine>) => machineCondition({ ...MACHINE, ...parts }).word;
  assert.equal(word({}), "running");
  assert.equal(word({ state: "colo" }), "colo");
  const pause = { code: "source-lost", reason: "Its source is lost", since: 1, byUser: false } as const;
  assert.equal(word({ state: "io-error", pause }), "paused: its source is lost");
  assert.equal(word({ state: "paused", pause: { ...pause, code: "paused", byUser: true } }), "paused");
  assert.equal(word({ state: "unreachable", pause }), "not reachable");
  assert.equal(endOf(MACHINE), undefined);
});

test("a disk that QEMU owns is complete when nothing lies below it, whatever was known before", () => {
  const disk = { name: "web:vda", target: "vda", device: "disk", backing: "nbd://there/x" };
  assert.deepEqual(machineDiskCondition(disk), { word: "over its source", tone: "calm" });
  assert.deepEqual(machineDiskCondition(disk, true), { word: "complete", tone: "good" });
});
