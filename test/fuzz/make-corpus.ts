/**
 * Makes the fuzzers' corpus anew: `node test/fuzz/make-corpus.ts`. Small images of every kind, by qemu-img, qemu-io and our own
 * code, gzipped into `corpus/`. Run it when a feature is to be covered that no image has; what it makes is committed.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, gzipSync } from "node:zlib";
import { openFormat } from "../../src/formats/index.ts";
import { MemoryNode } from "../support/memory-node.ts";
import { peerDoes } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { CORPUS } from "./corpus.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-corpus-"));
const at = (name: string) => join(directory, name);

type Step = readonly ["io", ...string[]] | readonly ["img", ...string[]] | readonly ["dirty"];

/** Writes in several tables and clusters, zeroes, and holes. */
const WRITES = ["write -P 17 0 9000", "write -P 34 70000 20000", "write -z 40960 8192", "write -P 51 200000 512"];

/** Name, size, options, backing file, and what is done to the image; `%` is its path. */
const IMAGES: readonly (readonly [name: string, size: string, options: string, base: boolean, ...steps: Step[]])[] = [
  ["v2.qcow2", "1M", "compat=0.10,cluster_size=4k", false, ["io", ...WRITES]],
  [
    "v2-overlay.qcow2",
    "1M",
    "compat=0.10,cluster_size=4k",
    true,
    ["io", ...WRITES],
    ["img", "snapshot", "-c", "s", "%"],
  ],
  ["v3.qcow2", "3M", "", false, ["io", ...WRITES, "write -P 68 2M 64k"]],
  ["tiny-clusters.qcow2", "300k", "cluster_size=512,refcount_bits=1", false, ["io", ...WRITES]],
  ["tiny-overlay.qcow2", "300k", "cluster_size=512,refcount_bits=8", true, ["io", ...WRITES]],
  ["wide-counts.qcow2", "1M", "cluster_size=4k,refcount_bits=64", true, ["io", ...WRITES]],
  ["extended.qcow2", "2M", "cluster_size=16k,extended_l2=on", true, ["io", ...WRITES, "write -P 85 1000000 700"]],
  [
    "preallocated.qcow2",
    "256k",
    "cluster_size=4k,preallocation=metadata",
    false,
    ["io", "write -P 17 0 9000", "write -z 16k 8k"],
  ],
  [
    "snapshots.qcow2",
    "1M",
    "cluster_size=4k",
    false,
    ["io", ...WRITES],
    ["img", "snapshot", "-c", "first", "%"],
    ["io", "write -P 102 4096 9000"],
    ["img", "snapshot", "-c", "second", "%"],
    ["io", "write -P 119 70000 100"],
  ],
  [
    "bitmaps.qcow2",
    "1M",
    "cluster_size=4k",
    false,
    ["io", ...WRITES],
    ["img", "bitmap", "--add", "-g", "4k", "%", "daily"],
    ["img", "bitmap", "--add", "--disable", "%", "weekly"],
    ["io", "write -P 102 4096 9000"],
  ],
  ["deflate.qcow2", "1M", "cluster_size=4k", false, ["io", "write -c -P 17 0 64k", "write -P 34 65536 4096"]],
  ["zstd.qcow2", "1M", "cluster_size=4k,compression_type=zstd", false, ["io", "write -c -P 17 0 64k"]],
  ["dirty.qcow2", "1M", "cluster_size=4k,lazy_refcounts=on", false, ["io", ...WRITES], ["dirty"]],
  ["plain.qed", "1M", "cluster_size=4k,table_size=2", false, ["io", ...WRITES]],
  ["overlay.qed", "1M", "cluster_size=4k,table_size=4", true, ["io", ...WRITES, "write -z 0 4k"]],
  ["large-clusters.qed", "2M", "cluster_size=16k,table_size=2", true, ["io", ...WRITES]],
  ["dirty.qed", "1M", "cluster_size=4k,table_size=2", false, ["io", ...WRITES], ["dirty"]],
];

/** Writes through our node and leaves the image as a dead process would. */
async function leaveDirty(path: string, format: "qcow2" | "qed"): Promise<void> {
  const file = await MemoryNode.load(path);
  const node = await openFormat(format, file, { readOnly: false });
  await node.write(300_000, new Uint8Array(5000).fill(136));
  await file.save(path);
}

try {
  writeFileSync(at("base"), Buffer.alloc(150_000, 0xbb));
  let total = 0;
  for (const [name, size, options, base, ...steps] of IMAGES) {
    const format = name.endsWith(".qed") ? "qed" : "qcow2";
    const path = at(name);
    const backing = base ? ["-u", "-b", "base", "-F", "raw"] : [];
    qemuImg("create", "-q", "-f", format, ...(options === "" ? [] : ["-o", options]), ...backing, path, size);
    for (const [kind, ...words] of steps) {
      if (kind === "dirty") await leaveDirty(path, format);
      else if (kind === "io") peerDoes(path, format, words);
      else qemuImg(...words.map((word) => (word === "%" ? path : word)));
    }
    const bytes = readFileSync(path);
    const packed = gzipSync(bytes, { level: constants.Z_BEST_COMPRESSION });
    writeFileSync(join(CORPUS, `${name}.gz`), packed);
    total += packed.length;
    console.log(`${name}: ${bytes.length} bytes, ${packed.length} packed`);
  }
  console.log(`${total} bytes in all`);
} finally {
  rmSync(directory, { recursive: true });
}
