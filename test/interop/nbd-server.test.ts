/** The server and clients that are not ours: libnbd's, QEMU's, fio. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { type GuestNode, isOverlay } from "../../src/block/index.ts";
import { openChain } from "../../src/chain/index.ts";
import { CopyOnRead } from "../../src/filters/index.ts";
import type { FormatName } from "../../src/formats/index.ts";
import { type NbdExport, type NbdServer, serveNbd } from "../../src/nbd/index.ts";
import { startQemuNbd } from "../support/nbd-servers.ts";
import { peer, refusedPeer } from "../support/peer-process.ts";
import { qemuImg, qemuIo } from "../support/qemu.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-nbd-server-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const MIB = 1024 * 1024;
const GRAIN = 64 * 1024;

let count = 0;
const at = (name: string): string => join(directory, `${count++}-${name}`);

interface Served extends AsyncDisposable {
  readonly server: NbdServer;
  readonly uri: string;
}

/** Serves an image with all that lies below it. */
async function serveImage(
  file: string,
  format: FormatName,
  more: Partial<NbdExport> = {},
  cache?: GuestNode["cache"],
): Promise<Served> {
  const readOnly = more.readOnly ?? false;
  const chain = await openChain({ file, format, readOnly });
  const node = cache === undefined ? chain.node : Object.assign(chain.node, { cache });
  const served = { name: "", readOnly, node, ...more };
  const server = await serveNbd({ listen: { path: at("sock") }, exports: [served] });
  return {
    server,
    uri: server.uri,
    [Symbol.asyncDispose]: async () => {
      await server.close();
      await chain.close();
    },
  };
}

/** A raw file of 16 MiB: some data, some holes. */
function rawFile(): string {
  const path = at("disk.raw");
  qemuImg("create", "-q", "-f", "raw", path, "16M");
  qemuIo(path, ["write -q -P 1 0 1M", "write -q -P 2 4M 2M", "write -q -P 3 16776704 512"], "-f", "raw");
  return path;
}

/** An overlay of 4 MiB over such a file (shorter than the file), with data, zeroes and what is missing. */
function overlay(format: "qcow2" | "qed", base: string): string {
  const path = at(`overlay.${format}`);
  qemuImg("create", "-q", "-f", format, "-b", base, "-F", "raw", path, "6M");
  qemuIo(path, ["write -q -P 7 128k 64k", "write -q -z 256k 128k", "write -q -P 8 5M 4k"], "-f", format);
  return path;
}

/** Runs a script of nbdsh, connected as `h`. @returns what it printed, line by line */
async function nbdsh(uri: string, script: string, ...options: readonly string[]): Promise<string[]> {
  const said = await peer("nbdsh", ...options, "-u", uri, "-c", script);
  return said.trim().split("\n");
}

interface Info {
  readonly exports: readonly Readonly<Record<string, unknown>>[];
}

test("nbdinfo is told all there is to know", async () => {
  await using disk = await serveImage(rawFile(), "raw", { description: "a disk" });
  const info = JSON.parse(await peer("nbdinfo", "--json", disk.uri)) as Info & Record<string, unknown>;
  assert.deepEqual([info["protocol"], info["TLS"], info["structured"]], ["newstyle-fixed", false, true]);
  const {
    "export-name": name,
    description,
    "export-size": size,
    contexts,
    is_read_only,
    can_cache,
    can_df,
    can_fast_zero,
    can_flush,
    can_fua,
    can_multi_conn,
    can_trim,
    can_zero,
    block_size_minimum: minimum,
  } = info.exports[0]!;
  assert.deepEqual([name, description, size], ["", "a disk", 16 * MIB]);
  assert.deepEqual(contexts, ["base:allocation", "qemu:allocation-depth", "x-streamdisk:local"]);
  assert.deepEqual(
    { is_read_only, can_cache, can_df, can_fast_zero, can_flush, can_fua, can_multi_conn, can_trim, can_zero },
    {
      ...{ is_read_only: false, can_cache: false, can_df: true, can_fast_zero: true, can_flush: true },
      ...{ can_fua: true, can_multi_conn: true, can_trim: true, can_zero: true },
    },
  );
  assert.equal(minimum, 1);
});

test("nbdinfo lists exports, and opens them by names of every kind", async () => {
  await using disk = await serveImage(rawFile(), "raw", { readOnly: true });
  const { node } = await openChain({ file: rawFile(), readOnly: true });
  const names = ["a b", "ü/..?x=1&y#z%", "x".repeat(200)];
  for (const name of names) disk.server.addExport({ name, readOnly: true, node });
  const info = JSON.parse(await peer("nbdinfo", "--json", "--list", disk.uri)) as Info;
  assert.deepEqual(info.exports.map((one) => one["export-name"]).sort(), ["", ...names].sort());
  for (const name of names) {
    assert.equal((await peer("nbdinfo", "--size", disk.server.uriOf(name))).trim(), String(16 * MIB));
  }
  const said = await refusedPeer("nbdinfo", "--size", disk.server.uriOf("not there"));
  assert.match(said, /No such file|not available|no export|There is no export/i);
  for (const name of names) await disk.server.removeExport(name);
  await node.close();
});

interface MapLine {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

async function mapOf(uri: string, context = "base:allocation"): Promise<string> {
  const lines = JSON.parse(await peer("nbdinfo", "--json", `--map=${context}`, uri)) as MapLine[];
  const joined: MapLine[] = [];
  for (const { offset, length, type } of lines) {
    const last = joined.at(-1);
    if (last?.type === type) joined[joined.length - 1] = { ...last, length: last.length + length };
    else joined.push({ offset, length, type });
  }
  return joined.map(({ length, type }) => `${type}x${length / GRAIN}`).join(" ");
}

for (const format of ["qcow2", "qed"] as const) {
  test(`${format}: maps are those of the image and of what lies below it, and QEMU's own`, async () => {
    const base = rawFile();
    const path = overlay(format, base);
    const qemu = await startQemuNbd(["-r", "-A", "-f", format, path]);
    const theirs = { allocation: await mapOf(qemu.uri), depth: await mapOf(qemu.uri, "qemu:allocation-depth") };
    await qemu[Symbol.asyncDispose]();
    await using disk = await serveImage(path, format);
    assert.equal(await mapOf(disk.uri), theirs.allocation);
    assert.equal(await mapOf(disk.uri, "qemu:allocation-depth"), theirs.depth);
    // 64 KiB each: missing data, local, missing, zeroes, missing data, known zero, missing data, local, missing data.
    assert.equal(await mapOf(disk.uri, "x-streamdisk:local"), "1x2 0x1 1x1 2x2 1x10 2x48 1x16 0x1 1x15");
    const lines = JSON.parse(await peer("qemu-img", "map", "--output=json", disk.uri)) as { length: number }[];
    assert.equal(
      lines.reduce((sum, { length }) => sum + length, 0),
      6 * MIB,
    );
  });

  test(`${format}: what clients write by many connections is in the image, and QEMU finds nothing wrong with it`, async () => {
    const path = overlay(format, rawFile());
    const content = at("content.raw");
    qemuImg("create", "-q", "-f", "raw", content, "6M");
    qemuIo(content, ["write -q -P 11 1000k 3000k", "write -q -P 12 5555k 100k"], "-f", "raw");
    {
      await using disk = await serveImage(path, format);
      await peer("nbdcopy", "--connections=4", "--flush", content, disk.uri);
      assert.match(await peer("qemu-img", "compare", "-f", "raw", "-F", "raw", content, disk.uri), /identical/);
      const back = at("back.raw");
      await peer("nbdcopy", "--connections=4", disk.uri, back);
      qemuImg("compare", "-f", "raw", "-F", "raw", content, back);
    }
    qemuImg("check", "-f", format, path);
    qemuImg("compare", "-f", "raw", "-F", format, content, path);
  });
}

test("qemu-img converts to it and from it", async () => {
  const source = overlay("qcow2", rawFile());
  const target = at("target.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", target, "6M");
  {
    await using disk = await serveImage(target, "qcow2");
    await peer("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", source, disk.uri);
    await peer("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk.uri, at("back.qcow2"));
  }
  qemuImg("compare", "-f", "qcow2", "-F", "qcow2", source, target);
  qemuImg("compare", "-f", "qcow2", "-F", "qcow2", source, join(directory, `${count - 1}-back.qcow2`));
  assert.ok(existsSync(target));
});

test("qemu-io writes, zeroes, discards and flushes, and reads what is to be read", async () => {
  const path = rawFile();
  {
    await using disk = await serveImage(path, "raw");
    const commands = [
      ...["write -P 5 1M 3M", "write -f -P 6 1234 4321", "write -z 2M 1M", "write -z -u 3000k 100k"],
      ...[
        "discard 10M 1M",
        "flush",
        "read -P 6 1234 4321",
        "read -P 0 2M 1M",
        "read -P 5 1M 1M",
        "read -P 3 16776704 512",
      ],
    ];
    const said = await peer("qemu-io", "-f", "raw", ...commands.flatMap((command) => ["-c", command]), disk.uri);
    assert.doesNotMatch(said, /verification failed|error/i);
  }
  qemuIo(path, ["read -P 6 1234 4321", "read -P 0 2M 1M", "read -P 5 1M 1M"], "-f", "raw");
});

test("libnbd: each command, its flags and its errors", async () => {
  const cached: string[] = [];
  const cache = async (offset: number, length: number): Promise<void> => {
    cached.push(`${offset}+${length}`);
  };
  await using disk = await serveImage(rawFile(), "raw", {}, cache);
  const said = await nbdsh(
    disk.uri,
    `
h.set_strict_mode(0)
def err(f, *args, **kwargs):
    try:
        f(*args, **kwargs)
        return "fine"
    except nbd.Error as e:
        return e.errno
size = h.get_size()
print(h.pread(4, 512), h.pread(2, size - 1024), h.pread(1, size - 1))
chunks = []
def chunk(buf, offset, status, error):
    chunks.append((offset, len(buf), status))
h.pread_structured(2 * 1024 * 1024, 512 * 1024, chunk)
print(sorted(chunks))
chunks.clear()
h.pread_structured(1024 * 1024, 512 * 1024, chunk, nbd.CMD_FLAG_DF)
print(chunks)
print(err(h.pread_structured, 2 * 1024 * 1024, 0, chunk, nbd.CMD_FLAG_DF))
h.pwrite(b"FUA", 77, nbd.CMD_FLAG_FUA)
print(h.pread(5, 76))
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
print(h.pread(1, 77))
print(err(h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO), err(h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE))
h.trim(1024 * 1024, 4 * 1024 * 1024, nbd.CMD_FLAG_FUA)
h.flush()
h.cache(32 * 1024 * 1024 // 4, 4096)
print(err(h.pread, 2, size - 1), err(h.pwrite, b"xx", size - 1), err(h.trim, 2, size - 1), err(h.zero, 2, size - 1))
print(err(h.pread, 1, 2**62), err(h.cache, 1, size), err(h.pwrite, b"x", 0, 1 << 9), err(h.pread, 33 * 1024 * 1024, 0))
print(err(h.block_status, 4096, 0, lambda *args: 0), err(h.flush, 1))
print(h.pread(3, 1024 * 1024 - 3))
`,
  );
  assert.deepEqual(said, [
    "bytearray(b'\\x01\\x01\\x01\\x01') bytearray(b'\\x00\\x00') bytearray(b'\\x03')",
    "[(524288, 524288, 1), (1048576, 524288, 2), (1572864, 1048576, 2)]",
    "[(524288, 1048576, 1)]",
    "EOVERFLOW",
    "bytearray(b'\\x01FUA\\x01')",
    "bytearray(b'\\x00')",
    "fine ENOTSUP",
    "EINVAL ENOSPC EINVAL ENOSPC",
    "EINVAL EINVAL EINVAL EOVERFLOW",
    "EINVAL fine",
    "bytearray(b'\\x01\\x01\\x01')",
  ]);
  assert.deepEqual(cached, ["4096+8388608"]);
});

test("libnbd: a read-only export changes nothing, without structured replies too", async () => {
  await using disk = await serveImage(rawFile(), "raw", { readOnly: true });
  for (const structured of ["True", "False"]) {
    const script = `
h.set_strict_mode(0)
h.set_request_structured_replies(${structured})
h.connect_uri("${disk.uri}")
print(h.is_read_only(), h.can_trim(), h.can_zero(), h.can_flush(), h.can_multi_conn(), h.can_df())
for f in (lambda: h.pwrite(b"x", 0), lambda: h.zero(1, 0), lambda: h.trim(1, 0)):
    try:
        f()
        print("fine")
    except nbd.Error as e:
        print(e.errno)
h.flush()
print(h.pread(2 * 1024 * 1024, 0)[1024 * 1024 - 1:1024 * 1024 + 1])
`;
    const said = (await peer("nbdsh", "-c", script)).trim().split("\n");
    assert.deepEqual(said, [
      `True False False True True ${structured}`,
      ...["EPERM", "EPERM", "EPERM"],
      "bytearray(b'\\x01\\x00')",
    ]);
  }
});

test("libnbd: options one by one", async () => {
  await using disk = await serveImage(rawFile(), "raw", { description: "a disk" });
  const said = await peer(
    "nbdsh",
    "-c",
    `
h.set_opt_mode(True)
h.set_full_info(True)
h.connect_uri("${disk.uri}")
names = []
h.opt_list(lambda name, text: names.append((name, text)))
print(names)
found = []
h.opt_list_meta_context(lambda name: found.append(name))
print(found)
found.clear()
h.add_meta_context("base:")
h.add_meta_context("x-streamdisk:")
h.add_meta_context("nobody:knows")
h.opt_list_meta_context(lambda name: found.append(name))
print(found)
h.clear_meta_contexts()
h.set_export_name("not there")
try:
    h.opt_info()
except nbd.Error as e:
    print(e.errno)
h.set_export_name("")
h.add_meta_context("qemu:allocation-depth")
h.opt_info()
print(h.get_size(), h.get_export_description(), h.get_block_size(nbd.SIZE_MAXIMUM))
h.opt_go()
runs = []
h.block_status(2 * 1024 * 1024, 0, lambda name, offset, entries, error: runs.append((name, entries)))
print(runs)
h.shutdown()
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri("${disk.uri}")
h.opt_abort()
`,
  );
  assert.deepEqual(said.trim().split("\n"), [
    "[('', 'a disk')]",
    "['base:allocation', 'qemu:allocation-depth', 'x-streamdisk:local']",
    "['base:allocation', 'x-streamdisk:local']",
    "ENOENT",
    `${16 * MIB} a disk ${32 * MIB}`,
    `[('qemu:allocation-depth', [${2 * MIB}, 1])]`,
  ]);
});

test("libnbd: one extent each, when it asks for one", async () => {
  await using disk = await serveImage(rawFile(), "raw");
  const said = await peer(
    "nbdsh",
    "-c",
    `
h.add_meta_context("base:allocation")
h.add_meta_context("x-streamdisk:local")
h.connect_uri("${disk.uri}")
runs = []
keep = lambda name, offset, entries, error: runs.append((name, entries))
h.block_status(16 * 1024 * 1024, 0, keep, nbd.CMD_FLAG_REQ_ONE)
h.block_status(4096, 1024 * 1024 - 1024, keep, nbd.CMD_FLAG_REQ_ONE)
print(sorted(runs))
`,
  );
  assert.equal(
    said.trim(),
    "[('base:allocation', [1024, 0]), ('base:allocation', [1048576, 0]), ('x-streamdisk:local', [1024, 0]), ('x-streamdisk:local', [1048576, 0])]",
  );
});

test("fio verifies what it has written, at depth 32", async () => {
  await using disk = await serveImage(overlay("qcow2", rawFile()), "qcow2");
  for (const size of ["4k", "48k"]) {
    await peer(
      "fio",
      ...[
        "--name=verify",
        "--verify_state_save=0",
        "--ioengine=nbd",
        `--uri=${disk.uri}`,
        "--rw=randwrite",
        `--bs=${size}`,
        "--iodepth=32",
      ],
      ...["--size=6m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--output-format=terse"],
    );
  }
});

test("what is read through copy-on-read stays, and CACHE brings it near", async () => {
  const base = rawFile();
  const path = overlay("qcow2", base);
  const chain = await openChain({ file: path, format: "qcow2" });
  assert.ok(isOverlay(chain.node));
  const node = new CopyOnRead(chain.node);
  const served: NbdExport = { name: "", readOnly: false, node };
  const server = await serveNbd({ listen: { path: at("sock") }, exports: [served] });
  try {
    await nbdsh(server.uri, "h.cache(1024 * 1024, 0)");
    assert.match(await mapOf(server.uri, "qemu:allocation-depth"), /^1x16 /);
    const copy = at("copy.raw");
    await peer("nbdcopy", server.uri, copy);
    await peer("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, copy);
    // What is known to be zero is not asked for.
    assert.equal(await mapOf(server.uri, "qemu:allocation-depth"), "1x16 2x48 1x32");
  } finally {
    await server.close();
    await node.close();
    await chain.close();
  }
  qemuImg("check", "-f", "qcow2", path);
});
