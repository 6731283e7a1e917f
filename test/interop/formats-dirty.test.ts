/**
 * Images that a killed process left behind: QEMU's are repaired when we open them, ours when QEMU does, and either way what was flushed
 * is there and the check is clean. The processes are real, and killed with -9.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openChain } from "../../src/chain/index.ts";
import { mustAgree } from "../support/agreement.ts";
import { ByteModel } from "../support/byte-model.ts";
import { peerDoes, qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { sample, seed } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-dirty-"));
after(() => rmSync(directory, { recursive: true }));

const SIZE = 8 * 1024 * 1024;
/** Flushed before the kill, and written after that flush. */
const FLUSHED = { offset: 100_000, length: 300_000, byte: 17 };
const LATER = { offset: 2_000_000, length: 100_000, byte: 34 };

interface Shape {
  readonly format: "qcow2" | "qed";
  readonly options: string;
}

const shapes: Shape[] = [
  { format: "qcow2", options: "cluster_size=512,lazy_refcounts=on" },
  { format: "qcow2", options: "cluster_size=4k,lazy_refcounts=on" },
  { format: "qcow2", options: "cluster_size=64k,lazy_refcounts=on" },
  { format: "qcow2", options: "cluster_size=16k,lazy_refcounts=on,extended_l2=on" },
  { format: "qcow2", options: "cluster_size=4k,lazy_refcounts=on,refcount_bits=1" },
  { format: "qed", options: "cluster_size=4k,table_size=2" },
  { format: "qed", options: "cluster_size=64k,table_size=4" },
];

/** Whether the header has the mark of an image that is in use or was not closed. */
function isMarked(path: string, format: Shape["format"]): boolean {
  const [at, bit] = format === "qed" ? [16, 2] : [79, 1];
  return ((readFileSync(path)[at] ?? 0) & bit) !== 0;
}

async function kill(child: ChildProcess): Promise<void> {
  assert.ok(child.pid !== undefined);
  const ended = once(child, "exit");
  process.kill(child.pid, "SIGKILL");
  assert.deepEqual(await ended, [null, "SIGKILL"]);
}

/** Gives qemu-io its commands one by one, as it asks for them, and kills it when it asks for more. */
async function killedPeer(path: string, format: Shape["format"], commands: readonly string[]): Promise<void> {
  const peer = spawn("stdbuf", ["-o0", "qemu-io", "-f", format, path], { stdio: ["pipe", "pipe", "inherit"] });
  let said = "";
  let given = 0;
  try {
    for await (const text of peer.stdout.setEncoding("utf8")) {
      said += text;
      if (said.split("qemu-io> ").length - 1 <= given) continue;
      if (given === commands.length) break;
      peer.stdin.write(`${commands[given++]}\n`);
    }
  } finally {
    await kill(peer);
  }
  assert.equal(said.match(/wrote (\d+)\/\1 bytes/g)?.length, 2, said);
}

/** Runs a program of ours until it says that it is done, and kills it. */
async function killedProgram(program: string): Promise<void> {
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const [said] = await once(child.stdout.setEncoding("utf8"), "data");
    assert.equal(said, "written\n");
  } finally {
    await kill(child);
  }
}

/** The disk holds what was flushed; what was written later is there whole clusters at a time, or not. */
async function takeOver(model: ByteModel, path: string, format: Shape["format"]): Promise<void> {
  await model.write(FLUSHED.offset, new Uint8Array(FLUSHED.length).fill(FLUSHED.byte));
  await using chain = await openChain({ file: path, format, readOnly: true });
  const seen = new Uint8Array(LATER.length);
  await chain.node.read(LATER.offset, seen);
  assert.ok(seen.every((byte) => byte === 0 || byte === LATER.byte));
  await model.write(LATER.offset, seen);
}

for (const { format, options } of sample("dirty", shapes, 4)) {
  test(`${format} ${options}, left by QEMU (seed ${seed})`, async () => {
    const path = join(directory, `theirs.${format}`);
    const label = `${format} ${options}`;
    qemuImg("create", "-q", "-f", format, "-o", options, path, String(SIZE));
    await killedPeer(path, format, [
      `write -P ${FLUSHED.byte} ${FLUSHED.offset} ${FLUSHED.length}`,
      "flush",
      `write -P ${LATER.byte} ${LATER.offset} ${LATER.length}`,
    ]);
    assert.ok(isMarked(path, format), "the peer left its mark");

    await using chain = await openChain({ file: path, format });
    await chain.node.write(3_500_000, new Uint8Array(1000).fill(51));
    await chain.close();
    assert.ok(!isMarked(path, format), "we took it away");
    const model = new ByteModel(SIZE);
    await takeOver(model, path, format);
    await model.write(3_500_000, new Uint8Array(1000).fill(51));
    await mustAgree({ path, format, model, label });
  });

  test(`${format} ${options}, left by us (seed ${seed})`, async () => {
    const path = join(directory, `ours.${format}`);
    const label = `${format} ${options}`;
    qemuImg("create", "-q", "-f", format, "-o", options, path, String(SIZE));
    const program = `
      import { openChain } from ${JSON.stringify(join(import.meta.dirname, "../../src/chain/index.ts"))};
      const { node } = await openChain({ file: ${JSON.stringify(path)}, format: "${format}" });
      await node.write(${FLUSHED.offset}, new Uint8Array(${FLUSHED.length}).fill(${FLUSHED.byte}));
      await node.flush();
      await node.write(${LATER.offset}, new Uint8Array(${LATER.length}).fill(${LATER.byte}));
      console.log("written");
      setInterval(() => {}, 1000);`;
    await killedProgram(program);
    assert.ok(isMarked(path, format), "we left our mark");

    // Opened for writing the peer repairs it and writes on.
    peerDoes(path, format, ["write -P 51 3500000 1000"]);
    assert.ok(!isMarked(path, format), "the peer took it away");
    const model = new ByteModel(SIZE);
    await takeOver(model, path, format);
    await model.write(3_500_000, new Uint8Array(1000).fill(51));
    // QED gives leaked clusters back only when it is told to.
    if (format === "qed" && qemuCheckStatus(path, format).status === 3) {
      await using chain = await openChain({ file: path, format });
      assert.ok((await chain.node.check({ repair: "leaks" }))["leaks-fixed"] > 0);
    }
    await mustAgree({ path, format, model, label });
  });
}
