import assert from "node:assert/strict";
import { test } from "node:test";
import type { PreparedDisk } from "./disk-nodes.ts";
import { machinePaths } from "./machine-paths.ts";
import { defaultMachine } from "./machine-spec.ts";
import { type PreparedMachine, qemuArguments } from "./qemu-arguments.ts";

const PATHS = machinePaths("/run/m,1");

function argumentsOf(more: Partial<PreparedMachine>): string[] {
  const machine = {
    ...defaultMachine({ name: "web" }, "x86_64"),
    accelerator: "tcg",
    emulator: "/q",
    disks: [],
  } as const;
  return qemuArguments({ ...machine, ...more }, PATHS);
}

/** What follows an option, each time that it is there. */
function valuesOf(args: readonly string[], option: string): string[] {
  return args.filter((_, index) => args[index - 1] === option);
}

/** From the bottom to the top. */
function nodesOf(disk: Partial<PreparedDisk>): [nodes: unknown[], device: string | undefined] {
  const image = { kind: "image", path: "/a,b.qcow2", format: "qcow2" } as const;
  const plain = { target: "vda", alias: "virtio-disk0", readOnly: false, direct: true, below: [], source: image };
  const args = argumentsOf({ disks: [{ ...plain, ...disk }] });
  return [valuesOf(args, "-blockdev").map((text): unknown => JSON.parse(text)), valuesOf(args, "-device")[0]];
}

test("a machine of which nothing is said", () => {
  const monitor = "socket,id=monitor,path=/run/m,,1/qmp,server=on,wait=off";
  const console =
    "socket,id=console,path=/run/m,,1/console,server=on,wait=off,logfile=/run/m,,1/console.log,logappend=on";
  assert.deepEqual(argumentsOf({}), [
    ...["-name", "guest=web", "-machine", "pc", "-accel", "tcg", "-cpu", "max", "-m", "size=1048576k", "-smp", "1"],
    ...["-no-user-config", "-nodefaults", "-display", "none", "-pidfile", "/run/m,1/pid"],
    ...["-chardev", monitor, "-mon", "chardev=monitor,mode=control"],
    ...["-chardev", console, "-serial", "chardev:console"],
  ]);
});

test("what is said of a machine, and what QEMU is told beside", () => {
  const args = argumentsOf({
    ...{ uuid: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", machine: "q35", accelerator: "kvm", memory: 2 ** 29, cpus: 4 },
    ...{ kernel: "/k,1", initrd: "/i", cmdline: "console=ttyS0 a=b,c", serialLog: "/log" },
    extraArguments: ["-nic", "user", "-m", "64"],
  });
  for (const [option, value] of Object.entries({ "-uuid": "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "-cpu": "host" })) {
    assert.deepEqual(valuesOf(args, option), [value]);
  }
  const plain = {
    "-machine": "q35",
    "-accel": "kvm",
    "-smp": "4",
    "-kernel": "/k,1",
    "-append": "console=ttyS0 a=b,c",
  };
  for (const [option, value] of Object.entries(plain)) assert.deepEqual(valuesOf(args, option), [value]);
  assert.match(valuesOf(args, "-chardev")[1] ?? "", /,logfile=\/log,/);
  assert.deepEqual(args.slice(-4), ["-nic", "user", "-m", "64"]);
  assert.deepEqual(valuesOf(argumentsOf({ arch: "aarch64" }), "-machine"), ["virt"]);
  const cpu = (more: NonNullable<PreparedMachine["cpu"]>) => valuesOf(argumentsOf({ cpu: more }), "-cpu");
  assert.deepEqual(cpu({ model: "qemu64", features: ["svm=off"] }), ["qemu64,svm=off"]);
  assert.deepEqual(cpu({ features: ["svm=off"] }), ["max,svm=off"]);
});

test("an image without a backing file", () => {
  const file = { driver: "file", "node-name": "vda-file", filename: "/a,b.qcow2", "read-only": false };
  const [nodes, device] = nodesOf({ bootIndex: 1 });
  assert.deepEqual(nodes, [
    {
      ...{ driver: "qcow2", "node-name": "vda", "read-only": false, discard: "unmap", backing: null },
      file: { ...file, discard: "unmap", cache: { direct: true } },
    },
  ]);
  assert.equal(device, "virtio-blk-pci,id=virtio-disk0,drive=vda,rerror=stop,werror=stop,bootindex=1");
});

test("an overlay over a chain: each node has a name, and what the guest reads is kept", () => {
  const [nodes, device] = nodesOf({
    ...{ source: { kind: "image", path: "/vm.qed", format: "qed" }, direct: false },
    below: [
      { reference: "/middle.qcow2", format: "qcow2" },
      { reference: "nbd+unix:///base?socket=/run/e%20x.sock", format: "raw" },
    ],
  });
  const server = { type: "unix", path: "/run/e x.sock" };
  assert.deepEqual(nodes, [
    {
      ...{ driver: "raw", "node-name": "vda-b2", "read-only": true },
      file: {
        driver: "nbd",
        "node-name": "vda-b2-file",
        "read-only": true,
        server,
        export: "base",
        "reconnect-delay": 60,
      },
    },
    {
      ...{ driver: "qcow2", "node-name": "vda-b1", "read-only": true, backing: "vda-b2" },
      file: { driver: "file", "node-name": "vda-b1-file", filename: "/middle.qcow2", "read-only": true },
    },
    {
      ...{ driver: "copy-on-read", "node-name": "vda-cor" },
      file: {
        ...{ driver: "qed", "node-name": "vda", "read-only": false, discard: "unmap", backing: "vda-b1" },
        file: {
          ...{ driver: "file", "node-name": "vda-file", filename: "/vm.qed", "read-only": false, discard: "unmap" },
          cache: { direct: false },
        },
      },
    },
  ]);
  assert.equal(device, "virtio-blk-pci,id=virtio-disk0,drive=vda-cor,rerror=stop,werror=stop");
});

test("sources on other machines", () => {
  const below = (reference: string, format: "raw" | "qcow2") => nodesOf({ below: [{ reference, format }] })[0][0];
  const server = { type: "inet", host: "h", port: "99" };
  assert.deepEqual(below("nbd://h:99/x", "qcow2"), {
    ...{ driver: "qcow2", "node-name": "vda-b1", "read-only": true, backing: null },
    file: { driver: "nbd", "node-name": "vda-b1-file", "read-only": true, server, export: "x", "reconnect-delay": 60 },
  });
  assert.deepEqual(below("https://h/x.raw", "raw"), {
    ...{ driver: "raw", "node-name": "vda-b1", "read-only": true },
    file: { driver: "https", "node-name": "vda-b1-file", "read-only": true, url: "https://h/x.raw" },
  });
  assert.throws(() => below("nbds://h/x", "raw"), { code: "unsupported", message: /by TLS/ });
});

test("a disk that is an export, and one that is only read", () => {
  const [nodes] = nodesOf({ source: { kind: "nbd", socket: "/run/d.sock", exportName: "" } });
  assert.deepEqual(nodes, [
    {
      ...{ driver: "nbd", "node-name": "vda", server: { type: "unix", path: "/run/d.sock" } },
      ...{ "reconnect-delay": 60, discard: "unmap", cache: { direct: true } },
    },
  ]);
  const [read, device] = nodesOf({ readOnly: true, below: [{ reference: "/base.raw", format: "raw" }] });
  assert.deepEqual((read.at(-1) as { driver: string }).driver, "qcow2");
  assert.match(device ?? "", /drive=vda,/);
});

test("a directory whose sockets would have too long a path", () => {
  assert.throws(() => machinePaths(`/${"d".repeat(99)}`), { code: "invalid-argument", message: /is 1 bytes too long/ });
});
