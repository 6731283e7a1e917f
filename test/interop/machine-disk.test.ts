/** The block nodes by which a machine of streamdisk's own has its disks: QEMU takes them, and lets go of the source when the disk stands alone. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { defaultMachine, machinePaths, prepareMachine, qemuArguments, RunningDomain } from "../../src/domain/index.ts";
import type { MachineImage } from "../../src/jobs/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { qemuImg, startMonitored } from "../support/qemu.ts";
import { describedAs, farOverlay, halfNoise } from "../support/qemu-disk.ts";
import { sample } from "../support/seed.ts";
import { until } from "../support/until.ts";

const SIZE = 4 * 2 ** 20;

interface Cell {
  readonly format: "qcow2" | "qed";
  readonly middle: boolean;
  /** Its link has gone before, and whoever saw to that died before the source was taken out. */
  readonly left: boolean;
}

const CELLS: readonly Cell[] = (["qcow2", "qed"] as const).flatMap((format) =>
  [false, true].flatMap((middle) => [false, true].map((left) => ({ format, middle, left }))),
);

/** The disk of a machine by the nodes that `qemuArguments` gives it, in a QEMU that boots nothing. */
async function startWithDisk(t: TestContext, directory: string, source: MachineImage) {
  const disk = { target: "vda", alias: "virtio-disk0", readOnly: false, source };
  const spec = defaultMachine({ name: "vm", accelerator: "tcg", disks: [disk] });
  const machine = await prepareMachine(spec, { allowBacking: "any" });
  const args = qemuArguments(machine, machinePaths(directory));
  const qmp = join(directory, "monitor");
  const qemu = await startMonitored(qmp, ...args.slice(args.indexOf("-blockdev")));
  t.after(() => qemu.kill());
  const domain = new RunningDomain({ qmp, description: describedAs("vm"), socketDirectory: directory });
  t.after(() => domain[Symbol.asyncDispose]());
  return { qemu, domain };
}

/** @param anew whether one that was left is streamed once more, in place of being let go of */
async function run(t: TestContext, { format, middle, left }: Cell, anew = false): Promise<void> {
  const directory = temporaryDirectory(t);
  const { source, image, expected } = await farOverlay(directory, format, SIZE, 0);
  await using _source = source;
  const top = join(directory, `top.${format}`);
  if (middle) qemuImg("create", "-q", "-f", format, "-b", image, "-F", format, top);
  const path = middle ? top : image;
  const { qemu, domain } = await startWithDisk(t, directory, { kind: "image", path, format });
  const names = async (): Promise<string[]> => {
    const nodes = (await qemu.execute("query-named-block-nodes", { flat: true })) as { "node-name": string }[];
    return nodes
      .map((node) => node["node-name"])
      .filter((name) => !name.startsWith("#"))
      .sort();
  };
  const own = ["vda", "vda-cor", "vda-file"];
  const below = middle ? ["vda-b1", "vda-b1-file", "vda-b2", "vda-b2-file"] : ["vda-b1", "vda-b1-file"];
  assert.deepEqual(await names(), [...own, ...below].sort());
  if (left) {
    await qemu.execute("block-stream", { "job-id": "other", device: "vda" });
    await until(async () => ((await qemu.execute("query-jobs")) as unknown[]).length === 0);
    assert.deepEqual(await names(), [...own, ...below].sort());
  }
  if (left && !anew) await domain.letGo("vda");
  else {
    const stream = await domain.stream("vda");
    assert.equal(stream.method, "fill");
    await stream.run();
  }
  assert.deepEqual(await names(), own);
  await qemu.kill();
  qemuImg("compare", "-q", "-f", format, "-F", "raw", path, expected);
}

for (const cell of sample("machine disk", CELLS, 2)) {
  const over = (cell.middle ? "an overlay over an export" : "an export") + (cell.left ? " that it needs no more" : "");
  test(`a machine's ${cell.format} over ${over} has nodes with names, and keeps none of its source`, (t) =>
    run(t, cell));
}

test("a stream of a machine's disk whose link has gone already ends what was left of its source", (t) =>
  run(t, { format: "qcow2", middle: false, left: true }, true));

/** A block device of the host over a file. @returns undefined where none can be made */
function loopDevice(t: TestContext, file: string): string | undefined {
  const { status, stdout } = spawnSync("losetup", ["--find", "--show", file], { encoding: "utf8" });
  if (status !== 0) return undefined;
  const device = stdout.trim();
  t.after(() => spawnSync("losetup", ["--detach", device]));
  return device;
}

// Only root can make devices.
if (process.getuid?.() === 0) {
  test("a machine's disk and its backing file may be block devices of the host", async (t) => {
    const directory = temporaryDirectory(t);
    const [base, room] = ["base.raw", "room"].map((name) => join(directory, name)) as [string, string];
    writeFileSync(base, halfNoise(SIZE));
    writeFileSync(room, Buffer.alloc(2 * SIZE));
    const [below, path] = [loopDevice(t, base), loopDevice(t, room)];
    if (below === undefined || path === undefined) return t.skip("no loop devices here");
    qemuImg("create", "-q", "-f", "qcow2", "-b", below, "-F", "raw", path);
    const { qemu, domain } = await startWithDisk(t, directory, { kind: "image", path, format: "qcow2" });
    await (await domain.stream("vda")).run();
    await qemu.kill();
    qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", path, base);
  });
}
