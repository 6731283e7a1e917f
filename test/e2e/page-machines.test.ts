/** Machines on the daemon's page, with a real QEMU that owns its disk, and many tabs at once. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser } from "playwright-core";
import { type Look, startBrowser } from "../support/browser.ts";
import { imageDisk, killMachines, machineXml } from "../support/machine.ts";
import { Bench } from "../support/page-bench.ts";
import { qemuImg } from "../support/qemu.ts";
import { startQemuDisk } from "../support/qemu-disk.ts";
import { until } from "../support/until.ts";

let browser: Browser;

before(async () => {
  browser = await startBrowser();
});
after(() => browser.close());

test("a machine and its disk are seen as they are, and the disk is streamed by hand until it stands alone", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2", delay: 10 });
  await using bench = await Bench.start(t, browser);
  await using look = await bench.look({ width: 360, scheme: "dark" });
  const { page } = look;
  await look.sees("No disks yet");
  const { client } = bench.daemon;
  await client.call("addDomain", { body: { name: "web", qmp: join(disk.directory, "qmp") } });
  await look.sees("not started yet");
  await disk.qemu.execute("cont", {});
  await look.sees("running");
  await look.sees(/^over nbd\+unix:/);
  await look.assertForEverybody();
  await page.getByRole("link", { name: /web:vda/ }).click();
  await look.sees(/^0\.\d % of 16 MiB is here; nothing fetches the rest but what its machine reads/);
  await look.sees(/would be out of reach: over 99|would be out of reach: 99/);
  await look.assertForEverybody();

  await look.press("One step");
  await look.sees(/One step: .* came/);
  await look.press("Start stream…");
  await page.getByLabel(/At most, in MiB/).fill("0.5");
  await look.press("Start");
  await look.sees(/The rest comes at .*limit 512 KiB\/s/);
  await look.press("Pause");
  await look.sees(/is here\. The stream is paused\./);
  const handle = client.disk("web:vda");
  assert.equal((await handle.streamInfo()).state, "paused");
  await look.press("Resume");
  await until(async () => (await handle.streamInfo()).state === "running");
  await look.press("Cancel…");
  await look.press("Cancel the stream");
  await look.sees("The stream was cancelled; what was fetched stays");
  await look.press("Start stream…");
  await look.press("Start");
  await look.sees("All 16 MiB are here. This disk stands alone.");
  await look.sees("would be lost. All of this disk is here.");
  await look.assertForEverybody();
  await page.getByRole("link", { name: "Disks" }).click();
  await look.sees("complete");
  await disk.qemu.kill();
  await page.reload();
  await look.sees("not reachable");
  await look.assertForEverybody();
  await look.assertWell();
});

test("a machine of the daemon's own is started again, and what was made from an image is told", async (t) => {
  await using bench = await Bench.start(t, browser);
  const { client, images, state } = bench.daemon;
  // Before its directory goes, in which stands which processes they are.
  using _machines = { [Symbol.dispose]: () => killMachines(join(state, "machines")) };
  const image = join(images, "a.qcow2");
  const base = join(images, "base.qcow2");
  for (const path of [image, base]) qemuImg("create", "-q", "-f", "qcow2", path, "1M");
  await client.call("runMachine", { body: { xml: machineXml({ name: "web", devices: imageDisk(image, "qcow2") }) } });
  await client.call("deploy", {
    body: { name: "vm1", image: base, imageFormat: "qcow2", exportOnly: true },
  });
  await using look = await bench.look({ width: 360 });
  await look.sees("running");
  await look.sees(/stands alone, and needs the image no more|is filled from it/);
  process.kill((await client.call("getDomain", { params: { domain: "web" } })).machine?.pid ?? 0, "SIGKILL");
  await look.sees(/^It ended at .*: killed by signal 9/);
  await look.assertForEverybody();
  await look.press("Start web");
  await look.sees("'web' runs");
  await look.press("Pause web");
  await look.sees("'web' is paused until it is resumed");
  await look.sees(/^paused$/);
  await look.press("Resume web");
  await look.sees("'web' goes on");
  await look.sees(/^running$/);
  await look.press("Stop… web");
  await look.assertAccessible();
  await look.page.getByLabel(/End its QEMU without asking/).check();
  await look.press("Stop it");
  await look.sees("'web' has ended");
  await look.sees(/^stopped$/);
  await look.assertWell();
});

test("seven tabs at once: those that nobody sees hold no line, and the one that is seen works", async (t) => {
  await using bench = await Bench.start(t, browser);
  await bench.daemon.client.call("createDisk", { body: { name: "vm1", size: 2 ** 24 } });
  await using first = await bench.look();
  await first.sees("1 in all");
  const tabs: Look[] = [first];
  for (let count = 0; count < 6; count++) {
    // One window has one tab in view: headless, all of them would be.
    await tabs.at(-1)?.hide(true);
    tabs.push(await first.another(`${bench.url}#/disk/vm1`));
    await tabs.at(-1)?.sees(/This disk stands alone|All 16 MiB are here/);
  }
  await tabs.at(-1)?.hide(true);
  await bench.daemon.client.call("createDisk", { body: { name: "vm2", size: 2 ** 20 } });
  await first.hide(false);
  await first.sees("2 in all");
  await first.sees("live");
  await first.assertWell();
});
