import assert from "node:assert/strict";
import { test } from "node:test";
import { libvirtDisk, qemuDisk } from "./hypervisor.ts";

const COMMON = "reconnect-delay=60,discard=unmap,cache.direct=on";

test("QEMU is told the port that a URI need not say, and commas twice", () => {
  const [, blockdev, , device] = qemuDisk({ uri: "nbd://127.0.0.1/" }, "n");
  assert.equal(blockdev, `driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port=10809,${COMMON}`);
  assert.equal(device, "virtio-blk-pci,drive=n,rerror=stop,werror=stop");
  const unix = "driver=nbd,node-name=n,server.type=unix,server.path=/run/a,,b.sock,export=x,,y";
  assert.equal(qemuDisk({ uri: "nbd+unix:///x%2Cy?socket=/run/a,b.sock" }, "n")[1], `${unix},${COMMON}`);
  assert.match(qemuDisk({ uri: "nbds://127.0.0.1:9/" }, "n")[1]!, /server\.port=9,tls-creds=tls0,/);
});

test("libvirt is told what QEMU is, and what has a meaning in XML as numbers", () => {
  const lines = libvirtDisk({ uri: "nbds+unix:///a'b?socket=/run/<x>%26y.sock" }, "vdb").join("\n");
  assert.match(lines, /<source protocol='nbd' name='a&#39;b' tls='yes'>/);
  assert.match(lines, /<host transport='unix' socket='\/run\/&#60;x&#62;&#38;y.sock'\/>/);
  assert.match(lines, /<reconnect delay='60'\/>/);
  assert.match(lines, /<target dev='vdb' bus='virtio'\/>/);
  assert.match(libvirtDisk({ uri: "nbd://images/" }).join("\n"), /<host name='images' port='10809'\/>/);
});
