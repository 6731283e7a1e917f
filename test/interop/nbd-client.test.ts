/** The NBD client against nbdkit and qemu-nbd: what they serve is read as it is, what is written arrives. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { layerExtents } from "../../src/block/index.ts";
import { connectNbd, listNbdExports, type NbdNode, nbdExportInfo } from "../../src/nbd/index.ts";
import { below, between } from "../support/draw.ts";
import { type NbdServerOptions, startNbdkit, startQemuNbd } from "../support/nbd-servers.ts";
import { qemuImg, qemuIo, run } from "../support/qemu.ts";
import { rng } from "../support/seed.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-nbd-client-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const MiB = 1024 * 1024;
const SIZE = 5 * MiB;

/** What nbdkit's pattern plugin has at an offset: each 8 bytes their own offset, big-endian. */
function pattern(offset: number, length: number): Buffer {
  const first = offset - (offset % 8);
  const words = Buffer.alloc(Math.ceil((offset + length - first) / 8) * 8);
  for (let at = 0; at < words.length; at += 8) words.writeBigUInt64BE(BigInt(first + at), at);
  return words.subarray(offset - first, offset - first + length);
}

/** Reads of all sizes at once, and all of it. */
async function readsPattern(disk: NbdNode, name: string): Promise<void> {
  const random = rng(name);
  const read = async (offset: number, length: number): Promise<void> => {
    const bytes = Buffer.alloc(length);
    await disk.read(offset, bytes);
    assert.ok(bytes.equals(pattern(offset, length)), `${name}: ${length} bytes at ${offset}`);
  };
  const reads = Array.from({ length: 60 }, () => {
    const offset = below(random, disk.length);
    return [offset, between(random, 1, Math.min(disk.length - offset, 2 ** between(random, 0, 20)))] as const;
  });
  await Promise.all(reads.map(([offset, length]) => read(offset, length)));
  await read(0, disk.length);
}

test("nbdkit, whatever it is told to withhold", async () => {
  const servers: readonly [string, string[], NbdServerOptions?, ((disk: NbdNode) => void)?][] = [
    ["plain", [], {}, ({ info }) => assert.ok(info.structuredReplies && info.canMultiConn && info.readOnly)],
    ["tcp", [], { tcp: true }],
    ["simple replies", ["--no-sr"], {}, ({ info }) => assert.equal(info.structuredReplies, false)],
    [
      "newstyle that is not fixed",
      ["--mask-handshake=0"],
      {},
      ({ info }) => assert.equal(info.structuredReplies, false),
    ],
    ["no extents", ["--filter=noextents"], {}, ({ info }) => assert.equal(info.contexts.length, 1)],
    [
      "one connection",
      ["--filter=multi-conn", "multi-conn-mode=disable"],
      {},
      ({ info }) => assert.equal(info.canMultiConn, false),
    ],
    ["delay", ["--filter=delay", "rdelay=3ms"]],
    ["rate", ["--filter=rate", "rate=800M"]],
    ["one thread", ["-t", "1"]],
    ["no other connection is let in", ["--filter=limit", "limit=1"]],
    ["few other connections are let in", ["--filter=limit", "limit=2"]],
    [
      "blocks",
      [
        "--filter=blocksize-policy",
        "blocksize-minimum=4096",
        "blocksize-preferred=65536",
        "blocksize-maximum=128K",
        "blocksize-error-policy=error",
      ],
      {},
      ({ info }) =>
        assert.deepEqual([info.minimumBlock, info.preferredBlock, info.maximumPayload], [4096, 65536, 131072]),
    ],
    [
      "export name",
      [
        "--filter=exportname",
        "exportname=disk é",
        "exportname-strict=true",
        "exportname-list=explicit",
        "default-export=disk é",
      ],
      { exportName: "disk é" },
    ],
  ];
  for (const [name, args, options, check] of servers) {
    const parameters = args.filter((arg) => /^[a-z-]+=/.test(arg) && !arg.startsWith("-"));
    const flags = args.filter((arg) => !parameters.includes(arg));
    await using server = await startNbdkit([...flags, "pattern", `size=${SIZE}`, ...parameters], options);
    await using disk = await connectNbd(server.uri);
    assert.equal(disk.length, SIZE, name);
    check?.(disk);
    await readsPattern(disk, name);
    let covered = 0;
    for await (const { kind, length } of layerExtents(disk)) {
      assert.equal(kind, "data", name);
      covered += length;
    }
    assert.equal(covered, SIZE, name);
  }
});

test("oldstyle is refused in plain words", async () => {
  await using server = await startNbdkit(["--oldstyle", "pattern", "size=1M"]);
  await assert.rejects(connectNbd(server.uri), { code: "unsupported", message: /speaks only the oldstyle handshake/ });
});

test("an export that is not there", async () => {
  await using nbdkit = await startNbdkit(
    ["--filter=exportname", "pattern", "size=1M", "exportname=a", "exportname-strict=true"],
    { exportName: "b" },
  );
  await assert.rejects(connectNbd(nbdkit.uri), { message: /an export 'b'/ });
  const image = join(directory, "none.raw");
  writeFileSync(image, Buffer.alloc(MiB));
  await using qemu = await startQemuNbd(["-f", "raw", "-x", "a", image], { exportName: "b" });
  await assert.rejects(connectNbd(qemu.uri), { code: "not-found", message: /does not have an export 'b'/ });
});

test("errors of the server are its own, and pass", async () => {
  await using server = await startNbdkit([
    "--filter=error",
    "pattern",
    "size=1M",
    "error-pread=EIO",
    "error-pread-rate=50%",
  ]);
  await using disk = await connectNbd(server.uri);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 200 }, async (_, index) => {
      const bytes = Buffer.alloc(512);
      await disk.read(512 * index, bytes);
      assert.ok(bytes.equals(pattern(512 * index, 512)));
    }),
  );
  const failed = outcomes.filter((outcome) => outcome.status === "rejected");
  assert.ok(failed.length > 40 && failed.length < 160, `${failed.length} failed`);
  for (const { reason } of failed)
    assert.match(String(reason), /answers READ of 512 bytes at \d+ with an error: input\/output error/);
});

test("writes, zeroes, discards and flushes arrive", async () => {
  for (const args of [
    [],
    ["--no-sr"],
    ["--filter=nozero"],
    ["--filter=blocksize-policy"],
    ["--filter=fua", "fuamode=emulate"],
  ]) {
    const parameters =
      args[0] === "--filter=blocksize-policy"
        ? ["blocksize-minimum=512", "blocksize-maximum=64K", "blocksize-error-policy=error"]
        : args.slice(1);
    const image = join(directory, "written.raw");
    const model = Buffer.alloc(MiB + 512);
    writeFileSync(image, model);
    const random = rng(`writes ${args.join()}`);
    {
      await using server = await startNbdkit([...args.slice(0, 1), "file", image, ...parameters]);
      await using disk = await connectNbd(server.uri);
      for (let i = 0; i < 60; i++) {
        const offset = below(random, model.length);
        const length = between(random, 1, Math.min(model.length - offset, 100_000));
        if (below(random, 3) === 0) {
          await disk.writeZeroes(offset, length);
          model.fill(0, offset, offset + length);
        } else {
          const data = Buffer.alloc(length, between(random, 1, 255));
          await disk.write(offset, data);
          data.copy(model, offset);
        }
      }
      await disk.discard(0, 4096);
      model.fill(0, 0, 4096);
      await disk.writeZeroes(0, 4096);
      await disk.flush();
      const bytes = Buffer.alloc(model.length);
      await disk.read(0, bytes);
      assert.ok(bytes.equals(model), args.join());
    }
    assert.ok(readFileSync(image).equals(model), args.join());
  }
});

test("a tail that is no multiple of the blocks", async () => {
  const size = MiB + 1000;
  for (const [minimum, maximum] of [
    [512, "64K"],
    [4096, "1M"],
  ]) {
    await using server = await startNbdkit([
      "--filter=blocksize-policy",
      "pattern",
      `size=${size}`,
      `blocksize-minimum=${minimum}`,
      `blocksize-preferred=4096`,
      `blocksize-maximum=${maximum}`,
    ]);
    await using disk = await connectNbd(server.uri);
    await readsPattern(disk, `tail ${minimum}`);
  }
  // A server that insists says so, and the rest can be read.
  await using strict = await startNbdkit([
    "--filter=blocksize-policy",
    "pattern",
    `size=${size}`,
    "blocksize-minimum=4096",
    "blocksize-error-policy=error",
  ]);
  await using disk = await connectNbd(strict.uri);
  await disk.read(MiB - 10, Buffer.alloc(10));
  await assert.rejects(disk.read(size - 10, Buffer.alloc(10)), {
    code: "invalid-argument",
    message: /READ of 1000 bytes at 1048576/,
  });
});

test("extents are nbdinfo's", async () => {
  const list = join(directory, "extents");
  writeFileSync(list, "0 1M\n1M 512K hole\n1536K 512K hole,zero\n2M 64K zero\n");
  const sparse = join(directory, "sparse.raw");
  writeFileSync(sparse, Buffer.alloc(200_000, 1));
  truncateSync(sparse, 300 * MiB);
  for (const args of [
    ["--filter=extentlist", "pattern", "size=3M", `extentlist=${list}`],
    ["file", sparse],
    ["memory", "1G"],
    ["data", "1 @0x40000000 2", "size=6G"],
  ]) {
    await using server = await startNbdkit(args);
    await using disk = await connectNbd(server.uri);
    // Neighbours of one kind may be told apart by one and not by the other.
    const merged: [number, number, boolean][] = [];
    const note = (offset: number, length: number, zero: boolean): void => {
      const last = merged.at(-1);
      if (last !== undefined && last[2] === zero) last[1] += length;
      else merged.push([offset, length, zero]);
    };
    for await (const { offset, length, kind } of layerExtents(disk)) note(offset, length, kind === "zero");
    const ours = merged.splice(0);
    const { stdout } = run("nbdinfo", "--json", "--map", server.uri);
    for (const { offset, length, type } of JSON.parse(stdout) as { offset: number; length: number; type: number }[]) {
      note(offset, length, (type & 2) !== 0);
    }
    assert.deepEqual(ours, merged, args.join(" "));
  }
});

test("what it says of an export is what nbdinfo says", async () => {
  for (const args of [
    ["pattern", "size=12345678"],
    ["memory", "1M"],
    ["-r", "memory", "1M"],
    ["--no-sr", "null", "1T"],
  ]) {
    await using server = await startNbdkit(args);
    const { stdout } = run("nbdinfo", "--json", server.uri);
    const theirs = (JSON.parse(stdout) as { exports: Record<string, unknown>[] }).exports[0]!;
    const ours = await nbdExportInfo(server.uri);
    assert.deepEqual(
      [
        ours.exportName,
        ours.length,
        ours.readOnly,
        ours.canFlush,
        ours.canFua,
        ours.canTrim,
        ours.canWriteZeroes,
        ours.canFastZero,
        ours.canCache,
        ours.canDontFragment,
        ours.canMultiConn,
        ours.rotational,
        ours.contexts,
      ],
      [
        theirs["export-name"],
        theirs["export-size"],
        theirs["is_read_only"],
        theirs["can_flush"],
        theirs["can_fua"],
        theirs["can_trim"],
        theirs["can_zero"],
        theirs["can_fast_zero"],
        theirs["can_cache"],
        theirs["can_df"],
        theirs["can_multi_conn"],
        theirs["is_rotational"],
        theirs["contexts"] ?? [],
      ],
    );
    assert.deepEqual(await listNbdExports(server.uri), [{ name: "", description: "" }]);
  }
});

test("a qcow2 chain behind qemu-nbd: content, extents, allocation depth, writes", async () => {
  const base = join(directory, "base.qcow2");
  const top = join(directory, "top.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", base, "8M");
  qemuIo(base, ["write -P 1 0 1M", "write -P 2 4M 1M"]);
  qemuImg("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top);
  qemuIo(top, ["write -P 3 512k 64k", "write -z 4M 64k"]);
  const copy = join(directory, "copy.raw");
  {
    await using server = await startQemuNbd(["-f", "qcow2", "-A", "-D", "the disk", "-x", "disk", top], {
      exportName: "disk",
    });
    await using disk = await connectNbd(server.uri);
    assert.equal(disk.info.description, "the disk");
    assert.deepEqual([...disk.info.contexts].sort(), ["base:allocation", "qemu:allocation-depth"]);
    assert.deepEqual(await listNbdExports(server.uri), [{ name: "disk", description: "the disk" }]);
    const depths = (await disk.allocationDepths(0, disk.length))!.map(({ offset, length, depth }) => [
      offset / 65536,
      length / 65536,
      depth,
    ]);
    assert.deepEqual(depths, [
      [0, 8, 2],
      [8, 1, 1],
      [9, 7, 2],
      [16, 48, 0],
      [64, 1, 1],
      [65, 15, 2],
      [80, 48, 0],
    ]);
    const zeroes = (await disk.extents(0, disk.length)).filter(({ kind }) => kind === "zero");
    assert.deepEqual(
      zeroes.map(({ offset, length }) => [offset / 65536, length / 65536]),
      [
        [16, 49],
        [80, 48],
      ],
    );
    const [one, three] = [Buffer.alloc(4096), Buffer.alloc(4096)];
    await Promise.all([disk.read(0, one), disk.read(512 * 1024, three)]);
    assert.ok(one.every((byte) => byte === 1) && three.every((byte) => byte === 3));
    await disk.write(6 * MiB, Buffer.alloc(65536, 9));
    await disk.cache(0, MiB);
    await disk.flush();
    const { status, stderr } = run("nbdcopy", server.uri, copy);
    assert.equal(status, 0, stderr);
    const bytes = Buffer.alloc(disk.length);
    await disk.read(0, bytes);
    assert.ok(bytes.equals(readFileSync(copy)));
  }
  qemuIo(top, ["read -P 9 6M 64k", "read -P 2 4160k 64k"]);
});

test("a server that is killed and comes back is read on", async () => {
  await using server = await startNbdkit(["pattern", `size=${SIZE}`]);
  await using disk = await connectNbd(server.uri, { patienceMs: 20_000 });
  const told: boolean[] = [];
  disk.onLink((up) => void told.push(up));
  await readsPattern(disk, "before");
  await server.stop("SIGKILL");
  const reading = readsPattern(disk, "meanwhile");
  while (told.length === 0) await sleep(5);
  await server.start();
  await reading;
  assert.deepEqual(told, [false, true]);
});

test("a server that is stopped is lost, and goes on", async () => {
  await using server = await startNbdkit(["pattern", `size=${SIZE}`]);
  await using disk = await connectNbd(server.uri, { timeoutMs: 300 });
  await disk.read(0, Buffer.alloc(512));
  const told: (boolean | string)[] = [];
  disk.onLink((up, error) => void told.push(up || String(error?.message)));
  await server.freeze();
  await assert.rejects(disk.read(0, Buffer.alloc(512)), { code: "source-lost", message: /does not answer/ });
  await assert.rejects(disk.read(0, Buffer.alloc(512)), { code: "source-lost" });
  server.thaw();
  while (told.at(-1) !== true) await sleep(5);
  await readsPattern(disk, "after");
});

test("another image at the same place is refused", async () => {
  const image = join(directory, "changing.raw");
  writeFileSync(image, Buffer.alloc(MiB));
  await using server = await startNbdkit(["file", image]);
  await using disk = await connectNbd(server.uri);
  await disk.read(0, Buffer.alloc(512));
  await server.stop();
  truncateSync(image, 2 * MiB);
  await server.start();
  while (
    await disk.read(0, Buffer.alloc(512)).then(
      () => true,
      (error) => error.code !== "changed",
    )
  )
    await sleep(5);
  await assert.rejects(disk.read(0, Buffer.alloc(512)), {
    code: "changed",
    message: /2097152 bytes instead of 1048576/,
  });
});
