/** What `disk show --as` prints is pasted as it is: QEMU starts with it, libvirt takes it, and a tool finds the disk by it. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseDomainXml } from "../../src/domain/index.ts";
import { assertFails, cli, cliOk, noise, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { LiveQemu, qemuImg, run } from "../support/qemu.ts";

const MACHINE = "-machine pc -accel tcg -m 32 -nodefaults -display none -S -qmp stdio";

test("a disk is shown as QEMU, libvirt and others take it", async (t) => {
  // What has a meaning to a shell, to QEMU's options and to XML.
  const directory = join(temporaryDirectory(t), "a, b's & c");
  await using daemon = new DaemonProcess(directory);
  await daemon.start();
  const base = join(daemon.images, "base.raw");
  writeFileSync(base, noise(2 ** 20, 3));
  const options = { env: daemon.env, cwd: directory };
  await cliOk(["disk", "create", "1st.disk", "--backing", base], options);
  const shown = async (as: string, ...more: string[]): Promise<string> =>
    (await cliOk(["disk", "show", "1st.disk", "--as", as, ...more], options)).stdout.trim();

  const uri = await shown("uri");
  qemuImg("compare", "-q", "-f", "raw", "-F", "raw", uri, base);
  assert.deepEqual(JSON.parse(await shown("uri", "--json")), { uri });

  const text = await shown("qemu");
  const { args } = JSON.parse(await shown("qemu", "--json")) as { args: string[] };
  await using qemu = new LiveQemu("sh", ["-c", `exec qemu-system-x86_64 ${MACHINE} ${text}`]);
  await qemu.greet();
  const [device] = (await qemu.execute("query-block")) as Record<string, Record<string, Record<string, unknown>>>[];
  assert.deepEqual(device?.["inserted"]?.["cache"], { writeback: true, direct: true, "no-flush": false });
  assert.deepEqual([device?.["inserted"]?.["drv"], args.length], ["nbd", 4]);
  for (const part of ["reconnect-delay=60", "discard=unmap"]) assert.ok(args[1]?.includes(part), args[1]);
  for (const part of ["rerror=stop", "werror=stop"]) assert.ok(args[3]?.includes(part), args[3]);

  const xml = await shown("libvirt");
  const socket = join(directory, "state/sockets/1st.disk.sock");
  const domain = `<domain type='test'><name>x</name><memory>65536</memory><os><type>hvm</type></os><devices>${xml}</devices></domain>`;
  assert.deepEqual(parseDomainXml(domain).disks, [
    {
      ...{ target: "vda", bus: "virtio", device: "disk", readOnly: false, format: "raw", backing: [] },
      source: { kind: "network", protocol: "nbd", name: "", hosts: [{ socket }] },
    },
  ]);
  mustBeLibvirts(directory, domain);

  // QEMU's names are short.
  const nodes = await Promise.all(
    ["one", "two"].map(async (end) => {
      const name = `a-disk-of-which-only-the-end-is-its-own-${end}`;
      await cliOk(["disk", "create", name, "--size", "1M"], options);
      const { stdout } = await cliOk(["disk", "show", name, "--as", "qemu"], options);
      return /node-name=([^,]+)/.exec(stdout)?.[1] ?? "";
    }),
  );
  assert.equal(new Set(nodes).size, 2);
  for (const node of nodes) assert.match(node, /^disk-a-disk-of-which-o-[0-9a-f]{8}$/);

  assertFails(
    await cli(["disk", "show", "1st.disk", "--as", "xen"], options),
    64,
    /Allowed choices are qemu, libvirt, uri/,
  );
});

/** libvirt's driver for tests needs no daemon. Its schema knows `reconnect` of NBD from later versions than Debian 12's on. */
function mustBeLibvirts(directory: string, domain: string): void {
  const file = join(directory, "domain.xml");
  for (const [text, ...how] of [[domain.replace(/<reconnect [^>]*>/, ""), "--validate"], [domain]] as const) {
    writeFileSync(file, text);
    const { status, stderr } = run("virsh", "-c", "test:///default", "define", ...how, file);
    assert.equal(status, 0, stderr);
  }
}
