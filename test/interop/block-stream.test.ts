/** A disk that a real QEMU owns and fills by its own stream, since its NBD server is taken. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { DomainDisk } from "../../src/daemon/domain-disk.ts";
import { type QemuDisk, type QemuDiskOptions, startQemuDisk } from "../support/qemu-disk.ts";
import { until } from "../support/until.ts";

const MIB = 2 ** 20;

async function withTakenServer(t: TestContext, options: Partial<QemuDiskOptions> = {}): Promise<QemuDisk> {
  const disk = await startQemuDisk(t, { format: "qcow2", ...options });
  await disk.qemu.execute("nbd-server-start", {
    addr: { type: "unix", data: { path: join(disk.directory, "theirs") } },
  });
  return disk;
}

test("a look at a disk that QEMU fills by itself tells how far that is", async (t) => {
  const { domain } = await withTakenServer(t);
  const disk = new DomainDisk(domain, "vda", { describe: async () => {}, onFallback: () => {} });
  assert.equal((await disk.info()).localBytes, 0);
  await disk.stream({ speed: 2 * MIB });
  t.after(() => disk.cancelStream());
  await until(async () => (await disk.info()).localBytes > 0);
  const { localBytes, missingBytes, hydrated } = await disk.info();
  assert.deepEqual([localBytes + missingBytes, hydrated], [16 * MIB, false]);
});
