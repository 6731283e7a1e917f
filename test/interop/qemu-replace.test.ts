/** The source of a disk that a real QEMU owns is replaced: one that has died, one that hangs, one that has moved. */
import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type DomainDescription, describeDomain, RunningDomain } from "../../src/domain/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { parseNbdUri } from "../../src/nbd/index.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { type AtCommand, monitorThat } from "../support/monitor-that.ts";
import { type NbdServerProcess, startNbdkit } from "../support/nbd-servers.ts";
import { qemuImg, startMonitored } from "../support/qemu.ts";
import { farOverlay, virtioDisk } from "../support/qemu-disk.ts";
import { sample } from "../support/seed.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;
const DEVICE = ["-device", "virtio-blk-pci,id=virtio-disk0,drive=top"];

/** How the disk was given to QEMU: what has a name there, and what has not. */
const GIVEN = {
  drive: (image: string, format: string) => [
    ...["-drive", `file=${image},format=${format},if=none,id=drive0,cache=none,detect-zeroes=on`],
    ...["-device", "virtio-blk-pci,id=virtio-disk0,drive=drive0"],
  ],
  blockdev: (image: string, format: string) => virtioDisk(image, format),
  filtered: (image: string, format: string) => virtioDisk(image, format, true),
  named: (image: string, format: string, source: NbdServerProcess) => {
    const server = { type: "unix", path: socketOf(source) };
    const nodes = [
      { driver: "nbd", "node-name": "far", "read-only": true, server, "reconnect-delay": 600 },
      { driver: "raw", "node-name": "base", "read-only": true, file: "far" },
      { driver: "file", "node-name": "file", filename: image },
      { driver: format, "node-name": "top", file: "file", backing: "base" },
    ];
    return [...nodes.flatMap((node) => ["-blockdev", JSON.stringify(node)]), ...DEVICE];
  },
} as const;

function socketOf({ uri }: NbdServerProcess): string {
  const address = parseNbdUri(uri);
  assert.ok(address.unix);
  return address.socket;
}

/** A QEMU with a disk that has a part of its source, and another server of the same. */
async function scene(t: TestContext, given: keyof typeof GIVEN, format: "qcow2" | "qed", delay = 0) {
  const directory = temporaryDirectory(t);
  const far = await farOverlay(directory, format, SIZE, delay);
  t.after(() => far.source[Symbol.asyncDispose]());
  const qmp = join(directory, "qmp");
  const qemu = await startMonitored(qmp, ...GIVEN[given](far.image, format, far.source));
  t.after(() => qemu.kill());
  const disk = { target: "vda", device: "disk", readOnly: false, backing: [] };
  // By the path of its image: how QEMU shows that changes with what lies below.
  const description: DomainDescription = {
    name: "vm",
    disks: [{ ...disk, source: { kind: "file", path: far.image } }],
  };
  const domain = new RunningDomain({ qmp, description, socketDirectory: directory });
  t.after(() => domain[Symbol.asyncDispose]());
  await domain.step("vda", { offset: 2 * MIB, length: 3 * MIB });
  const moved = await startNbdkit(["file", join(directory, "base.raw")]);
  t.after(() => moved[Symbol.asyncDispose]());
  const backingInImage = (): Record<string, unknown> =>
    JSON.parse(qemuImg("info", "-U", "-f", format, "--output=json", far.image));
  return { directory, ...far, qemu, domain, moved, backingInImage };
}

type Scene = Awaited<ReturnType<typeof scene>>;

async function mustComeToItsEnd({ directory, domain, qemu, moved, image, expected }: Scene, format: string) {
  const stream = await domain.stream("vda");
  assert.equal(stream.method, "fill");
  await stream.run();
  assert.deepEqual(await domain.qmp.execute("query-block-exports", {}), []);
  await qemu.kill();
  await moved.stop();
  rmSync(join(directory, "base.raw"));
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, expected);
  qemuImg("check", "-q", "-r", "leaks", "-f", format, image);
}

const OLD: Readonly<Record<string, (source: NbdServerProcess) => Promise<unknown>>> = {
  "has died": (source) => source.stop(),
  hangs: (source) => source.freeze(),
  lives: async () => {},
};

const CELLS = Object.keys(GIVEN).flatMap((given) =>
  Object.keys(OLD).flatMap((old) =>
    (["qcow2", "qed"] as const).map((format) => ({ given: given as keyof typeof GIVEN, old, format })),
  ),
);

for (const { given, old, format } of sample("replace source", CELLS, 3)) {
  test(`${format} (${given}) is put over another source while the old one ${old}`, async (t) => {
    const it = await scene(t, given, format);
    const { domain, source, moved } = it;
    const cachesBefore = await cachesOf(it);
    await OLD[old]!(source);
    const { compared, warnings } = await domain.replaceSource("vda", { backing: moved.uri, backingFormat: "raw" });
    assert.deepEqual(warnings, []);
    assert.ok(compared >= MIB, `${compared} bytes were compared`);
    source.thaw();
    await source.stop();

    const nodes = await domain.qmp.execute("query-named-block-nodes", { flat: true });
    const servers = nodes.filter(({ driver }) => driver === "nbd").map(({ file }) => file.replace(/:\/+/, ":"));
    assert.deepEqual(servers, [moved.uri.replace(/:\/+/, ":")], "nothing of the old source is left");
    assert.deepEqual(await cachesOf(it), cachesBefore, "the overlay is open as it was");
    const info = it.backingInImage();
    assert.deepEqual([info["backing-filename"], info["backing-filename-format"]], [moved.uri, "raw"]);
    const described = (await describeDomain(domain.qmp, "vm")).disks[0];
    assert.deepEqual(described?.source, { kind: "file", path: it.image });
    await mustComeToItsEnd(it, format);
  });
}

async function cachesOf({ qemu, image }: Scene): Promise<unknown> {
  const nodes = (await qemu.execute("query-named-block-nodes", { flat: true })) as Record<string, unknown>[];
  const own = nodes.filter(({ file, drv }) => drv === "file" && file === image);
  assert.equal(own.length, 1);
  return nodes
    .filter(({ drv }) => drv === "qcow2" || drv === "qed" || drv === "file")
    .map((node) => [node["cache"], node["detect_zeroes"]]);
}

test("a source that can't be the same is refused, and nothing is changed", async (t) => {
  const it = await scene(t, "named", "qcow2");
  const { directory, domain, source } = it;
  const before = await domain.qmp.execute("query-named-block-nodes", { flat: true });
  const short = join(directory, "short.raw");
  writeFileSync(short, noise(SIZE - MIB, 11));
  const refused = (backing: string, message: RegExp): Promise<void> =>
    assert.rejects(domain.replaceSource("vda", { backing, backingFormat: "raw" }), { code: "refused", message });
  await refused(short, /'.*short.raw' of 'vm:vda' has 15728640 bytes and the old one 16777216: .*--force/);
  const other = join(directory, "other.raw");
  writeFileSync(other, noise(SIZE, 12));
  await refused(other, /'.*other.raw' of 'vm:vda' differs from the old one at 0: .*--force/);
  await assert.rejects(domain.replaceSource("vda", { backing: join(directory, "none.raw") }), { code: "not-found" });
  const secret = "nbds://127.0.0.1:9/";
  await assert.rejects(domain.replaceSource("vda", { backing: secret, backingFormat: "raw" }));
  assert.deepEqual(await domain.qmp.execute("query-named-block-nodes", { flat: true }), before);

  await source.stop();
  const { compared, warnings } = await domain.replaceSource("vda", { backing: other, backingFormat: "raw" });
  assert.equal(compared, 0);
  assert.match(warnings.join(), /nothing of the disk is known to agree with '.*other.raw'/);
  assert.deepEqual(it.backingInImage()["backing-filename"], other);
  const forced = await domain.replaceSource("vda", { backing: short, backingFormat: "raw", force: true });
  assert.match(forced.warnings.join(), /has 15728640 bytes and the old one 16777216,.* differs from the old one at/);
});

test("a disk that stands alone has no source to be replaced", async (t) => {
  const { domain, moved } = await scene(t, "blockdev", "qcow2");
  await (await domain.stream("vda")).run();
  await assert.rejects(domain.replaceSource("vda", { backing: moved.uri }), {
    code: "refused",
    message: /stands alone/,
  });
});

/** The disk of a scene by another monitor. */
function anotherDomain(t: TestContext, { domain, directory }: Scene, at: AtCommand, act: () => void): RunningDomain {
  domain.qmp.disconnect();
  const { description } = domain;
  const qmp = monitorThat(join(directory, "qmp"), at, act);
  const another = new RunningDomain({ qmp, description, socketDirectory: directory });
  t.after(() => another[Symbol.asyncDispose]());
  return another;
}

test("a comparison that fails when the disk lies over the new source already is a warning", async (t) => {
  const it = await scene(t, "blockdev", "qcow2");
  await it.source.stop();
  // The first export is of the old source, the second one of the overlay.
  const second = { command: "block-export-add", time: 2, after: true };
  const domain = anotherDomain(t, it, second, () => {
    throw new StreamdiskError("io", "no answer");
  });
  const { compared, warnings } = await domain.replaceSource("vda", { backing: it.moved.uri, backingFormat: "raw" });
  assert.equal(compared, 0);
  assert.deepEqual(warnings.length, 1);
  assert.match(warnings[0]!, /^Nothing was compared with '.*': no answer$/);
  assert.deepEqual(it.backingInImage()["backing-filename"], it.moved.uri);
  await mustComeToItsEnd({ ...it, domain }, "qcow2");
});

test("an old source that is lost while it is compared is given up", async (t) => {
  const it = await scene(t, "blockdev", "qcow2", 500);
  const domain = anotherDomain(t, it, { command: "block-export-add", after: true }, () => {
    // It is connected to by then, and waits for its first bytes.
    setTimeout(async () => {
      const [{ id } = { id: "" }] = await domain.qmp.execute("query-block-exports", {});
      await domain.qmp.execute("block-export-del", { id, mode: "hard" });
    }, 150);
  });
  const { compared, warnings } = await domain.replaceSource("vda", { backing: it.moved.uri, backingFormat: "raw" });
  assert.ok(compared >= MIB, `${compared} bytes were compared`);
  assert.deepEqual(warnings, []);
  await mustComeToItsEnd({ ...it, domain }, "qcow2");
});
