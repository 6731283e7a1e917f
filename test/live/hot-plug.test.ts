/** A disk of the engine is put into a machine that runs, read by its guest while it is filled, and taken out again. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { describeDomain, RunningDomain } from "../../src/domain/index.ts";
import { serveDisk } from "../../src/engine/index.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { Guest } from "../support/guest/guest.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { sample } from "../support/seed.ts";

const MACHINES: Readonly<Record<string, readonly string[]>> = {
  pc: [],
  q35: ["-machine", "q35", "-device", "pcie-root-port,id=port1,chassis=1"],
};

async function run(t: TestContext, machine: readonly string[]): Promise<void> {
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const content = noise(4 * 2 ** 20, 5);
  writeFileSync(base, content);
  await using disk = await serveDisk({
    image: join(directory, "data.qcow2"),
    create: true,
    backing: base,
    stream: true,
  });
  const qmp = join(directory, "qmp");
  const own = [
    "-blockdev",
    "null-co,node-name=own,size=1048576",
    "-device",
    "virtio-blk-pci,id=virtio-disk0,drive=own",
  ];
  const monitor = ["-qmp", `unix:${qmp},server=on,wait=off`];
  const booted = await Guest.boot(makeBootFiles(directory), [...machine, ...monitor, ...own]);
  await using guest = booted.guest;
  const disks = async (): Promise<string[]> => (await guest.does("disks")).split(" ");
  const until = async (wanted: readonly string[]): Promise<void> => {
    while ((await disks()).join() !== wanted.join()) await sleep(200);
  };
  assert.deepEqual(await disks(), ["vda"]);

  await using domain = new RunningDomain({ qmp, description: { name: "vm", disks: [] } });
  domain.description = await describeDomain(domain.qmp, "vm");
  for (const round of [1, 2]) {
    assert.equal(await domain.attach(disk, undefined), "vdb");
    domain.description = await describeDomain(domain.qmp, "vm");
    assert.deepEqual(
      domain.description.disks.map(({ target, alias }) => `${target} ${alias}`),
      ["vda virtio-disk0", "vdb hot-vdb"],
      `round ${round}`,
    );
    await assert.rejects(domain.attach(disk, "vdb"), { code: "exists" });
    await until(["vda", "vdb"]);
    assert.equal(await guest.does("sum vdb"), createHash("md5").update(content).digest("hex"));
    await domain.detach("vdb");
    await until(["vda"]);
    const nodes = await domain.qmp.execute("query-named-block-nodes", { flat: true });
    assert.deepEqual(
      nodes.map(({ nodeName }) => nodeName),
      ["own"],
    );
    domain.description = await describeDomain(domain.qmp, "vm");
  }
  await assert.rejects(domain.detach("vda"), { code: "not-found", message: /only what 'domain attach' put in/ });
  await guest.powerOff();
}

for (const machine of sample("hot-plug", Object.keys(MACHINES), 1)) {
  test(`a disk is put into a machine (${machine}) and taken out again`, (t) => run(t, MACHINES[machine]!));
}
