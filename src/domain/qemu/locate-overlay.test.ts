import assert from "node:assert/strict";
import { test } from "node:test";
import type { DiskDescription } from "../description.ts";
import type { QmpBlockDevice, QmpNode } from "../qmp/commands.ts";
import { type BlockLayer, deviceId, locateOverlay } from "./locate-overlay.ts";

function node(nodeName: string, driver: string, more: Partial<QmpNode> = {}): QmpNode {
  const clusterSize = driver === "qcow2" || driver === "qed" ? 65536 : undefined;
  return {
    ...{ nodeName, driver, readOnly: false, file: `/images/${nodeName}`, backingFile: undefined, length: 2 ** 20 },
    ...{ clusterSize, detectZeroes: "off", snapshots: 0, ...more },
  };
}

const NODES = [node("filter", "copy-on-read"), node("top", "qcow2"), node("far", "nbd"), node("plain", "raw")];
const DEVICE: QmpBlockDevice = {
  device: "",
  qdev: "/machine/peripheral/virtio-disk0/virtio-backend",
  inserted: NODES[0],
  ioStatus: "ok",
};

/** A filter over an overlay over an NBD node. */
function layer(more: Partial<BlockLayer> = {}, jobs: readonly string[] = []): BlockLayer {
  return {
    devices: [DEVICE],
    nodes: NODES,
    graph: {
      nodes: [
        { id: 1, type: "block-backend", name: "" },
        ...NODES.map(({ nodeName }, index) => ({ id: index + 2, type: "block-driver", name: nodeName })),
        ...jobs.map((name, index) => ({ id: index + 20, type: "block-job", name })),
      ],
      edges: [
        { parent: 1, child: 2, name: "root" },
        { parent: 2, child: 3, name: "file" },
        { parent: 3, child: 4, name: "backing" },
        ...jobs.map((_, index) => ({ parent: index + 20, child: 3, name: "main node" })),
      ],
    },
    ...more,
  };
}

const DISK: DiskDescription = { target: "vda", alias: "virtio-disk0", device: "disk", readOnly: false, backing: [] };

test("the overlay is found below a filter, with what is below it", () => {
  assert.deepEqual(locateOverlay(layer(), "vm", DISK), {
    ...{ name: "vm:vda", qdev: DEVICE.qdev, node: "top", backingNode: "far", format: "qcow2", file: "/images/top" },
    ...{ length: 2 ** 20, clusterSize: 65536, backingFile: undefined, detectZeroes: "off" },
  });
});

test("a device is known by its id, whatever bears it", () => {
  const id = (qdev: string | undefined, device = ""): string | undefined =>
    deviceId({ qdev, device, inserted: undefined, ioStatus: undefined });
  assert.equal(id("/machine/peripheral/virtio-disk0/virtio-backend"), "virtio-disk0");
  assert.equal(id("/machine/peripheral/scsi0-0-0-1"), "scsi0-0-0-1");
  assert.equal(id("ide0-0-0"), "ide0-0-0");
  assert.equal(id(undefined, "drive-virtio-disk0"), "virtio-disk0");
  assert.equal(id("/machine/peripheral-anon/device[1]/virtio-backend"), undefined);
});

test("without an alias the path of the image decides", () => {
  const { alias: _, ...bare } = DISK;
  const disk: DiskDescription = { ...bare, source: { kind: "file", path: "/images/filter" } };
  assert.equal(locateOverlay(layer(), "vm", disk).node, "top");
  const twice = layer({ devices: [DEVICE, { ...DEVICE, qdev: "other" }] });
  assert.throws(() => locateOverlay(twice, "vm", disk), { code: "not-found", message: /2 devices with the image/ });
});

const REFUSED: Readonly<Record<string, readonly [BlockLayer, object]>> = {
  "is not there": [
    layer({ devices: [{ ...DEVICE, qdev: "ide0-0-0" }] }),
    { code: "not-found", message: "QEMU has no device with the id 'virtio-disk0' for 'vm:vda': it has 'ide0-0-0'" },
  ],
  "is empty": [layer({ devices: [{ ...DEVICE, inserted: undefined }] }), { code: "not-found", message: /is empty/ }],
  "is no overlay": [
    layer({ devices: [{ ...DEVICE, inserted: NODES[3] }] }),
    { code: "unsupported", message: /the format raw, which is no overlay/ },
  ],
  "is read-only": [
    layer({ devices: [{ ...DEVICE, inserted: node("top", "qcow2", { readOnly: true }) }] }),
    { code: "permission" },
  ],
  "has internal snapshots": [
    layer({ devices: [{ ...DEVICE, inserted: node("top", "qcow2", { snapshots: 2 }) }] }),
    { code: "refused", message: /2 internal snapshots/ },
  ],
  "a job works on": [
    layer({}, ["mirror0"]),
    { code: "in-use", message: /QEMU's job 'mirror0' is at work on 'vm:vda'/ },
  ],
};

for (const [what, [blockLayer, error]] of Object.entries(REFUSED)) {
  test(`a disk that ${what} is refused`, () => {
    assert.throws(() => locateOverlay(blockLayer, "vm", DISK), error);
  });
}

test("a stream of our own is in the way of who changes something, and of nobody who looks", () => {
  const streamed = layer({}, ["streamdisk-stream-0"]);
  assert.throws(() => locateOverlay(streamed, "vm", DISK, "change"), { code: "in-use" });
  assert.equal(locateOverlay(streamed, "vm", DISK, "look").node, "top");
  const another = layer({}, ["streamdisk-stream-0", "mirror0"]);
  assert.throws(() => locateOverlay(another, "vm", DISK, "look"), { code: "in-use", message: /mirror0/ });
});
