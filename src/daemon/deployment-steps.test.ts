import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { aDeployment } from "../../test/support/store-conformance.ts";
import type { DeploymentRecord } from "../jobs/index.ts";
import { DeploymentSteps, type DeploymentStepsParts } from "./deployment-steps.ts";

const LENGTH = 2 ** 20;

/** How a disk is made and undone that a machine's QEMU has, in a world where nothing else is. */
function diskStep(t: TestContext) {
  const directory = realpathSync(temporaryDirectory(t));
  const uri = join(directory, "base.raw");
  writeFileSync(uri, Buffer.alloc(LENGTH));
  const images = { info: async () => ({ uri, length: LENGTH, format: "raw" as const }), uri: () => uri };
  const refused: string[] = [];
  const parts = {
    ...{ images, disks: { find: () => undefined } },
    refuseDeleting: async ({ name }: DeploymentRecord) => void refused.push(name),
  };
  const deployment = { ...aDeployment("vm1"), overlay: join(directory, "vm1-vda.qcow2") };
  const step = new DeploymentSteps(parts as unknown as DeploymentStepsParts).of(deployment)[1]!;
  assert.equal(step.name, "disk");
  const undo = (more: Partial<DeploymentRecord> = {}) => step.undo({ ...deployment, state: "removing", ...more }, true);
  return { directory, deployment, step, undo, refused };
}

const FOREIGN: readonly Buffer[] = ["", "somebody else's", Buffer.alloc(LENGTH)].map((bytes) => Buffer.from(bytes));

for (const bytes of FOREIGN) {
  test(`a file of ${bytes.length} bytes that has come to where the overlay is to be stays when that can't be made`, async (t) => {
    const { deployment, step, undo, refused } = diskStep(t);
    writeFileSync(deployment.overlay, bytes);
    await assert.rejects(step.make(deployment), { code: "exists", message: /is there already/ });
    await undo();
    await undo({ keepDisk: true });
    assert.deepEqual([readFileSync(deployment.overlay), refused], [bytes, []]);
  });
}

test("so does a directory, and an image of the same format that lies over another", async (t) => {
  const { directory, deployment, step, undo } = diskStep(t);
  mkdirSync(deployment.overlay);
  await undo();
  rmSync(deployment.overlay, { recursive: true });
  await step.make(deployment);
  const other = readFileSync(deployment.overlay);
  other.write("bose.raw", other.indexOf("base.raw"));
  writeFileSync(deployment.overlay, other);
  writeFileSync(join(directory, "bose.raw"), "");
  await undo();
  await undo({ keepDisk: true });
  assert.deepEqual(readFileSync(deployment.overlay), other);
});

test("an overlay that was made goes, whether that was written down or the daemon died before", async (t) => {
  const { deployment, step, undo, refused } = diskStep(t);
  for (const steps of [[], [{ name: "disk", ms: 1 }]]) {
    await step.make(deployment);
    await undo({ steps });
    assert.equal(existsSync(deployment.overlay), false);
    await undo({ steps });
  }
  await step.make(deployment);
  // Its stream has taken the link away.
  writeFileSync(deployment.overlay, readFileSync(deployment.overlay).fill(0, 8, 16));
  await undo({ steps: [{ name: "disk", ms: 1 }] });
  assert.equal(existsSync(deployment.overlay), false);
  assert.ok(refused.length >= 3, "whether others need it is looked at before");
});
