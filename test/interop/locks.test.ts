/**
 * QEMU's image locks, both ways: what we hold keeps QEMU's programs out and what they hold keeps us out, in the same cases as
 * among themselves, and nothing more.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openFile } from "../../src/sources/index.ts";
import { qemuImg, run, startGuest, startStorageDaemon } from "../support/qemu.ts";

const directory = mkdtempSync(join(tmpdir(), "streamdisk-locks-"));
after(() => rmSync(directory, { recursive: true }));

const base = join(directory, "base.qcow2");
const overlay = join(directory, "overlay.qcow2");
qemuImg("create", "-q", "-f", "qcow2", base, "1M");
qemuImg("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay);

const disk = { driver: "qcow2", "node-name": "disk", file: { driver: "file", filename: overlay } };

const writer = { readOnly: false };
const reader = { readOnly: true };
const inUse = (path: string, by: string) => ({
  code: "in-use" as const,
  message: new RegExp(`^'${path}' .* by ${by}`),
});

/** The locked bytes of each file below the test's directory, as the kernel lists them for a process. */
function lockedBytes(pid: number): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const locks = lockLines(pid, fd);
    if (locks.length > 0) found[readlinkSync(`/proc/${pid}/fd/${fd}`)] = locks;
  }
  return found;
}

function lockLines(pid: number, fd: string): string[] {
  try {
    const lines = readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8").matchAll(/OFDLCK.* READ .* (\d+) (\d+)$/gm);
    return [...lines].map(([, first, last]) => `${first}-${last}`).sort();
  } catch {
    return []; // The descriptor that lists the descriptors is gone by now.
  }
}

/** Another process of ours: opens, says how that went, and holds on until its input ends. */
async function openElsewhere(path: string, options: object, env: NodeJS.ProcessEnv = {}) {
  const sources = JSON.stringify(join(import.meta.dirname, "../../src/sources/index.ts"));
  const program = `
    import { openFile } from ${sources};
    try {
      const file = await openFile(${JSON.stringify(path)}, ${JSON.stringify(options)});
      console.log(JSON.stringify({ opened: true, warning: file.lockWarning }));
      process.stdin.resume().on("end", () => file.close());
    } catch (error) {
      console.log(JSON.stringify({ code: error.code, message: error.message }));
    }`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", program], {
    env: { ...process.env, ...env },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  const [said] = (await once(child.stdout, "data")) as [Buffer];
  return {
    said: JSON.parse(String(said)) as { opened?: true; warning?: string; code?: string; message?: string },
    pid: child.pid ?? 0,
    kill: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

test("we lock the bytes that QEMU locks", async () => {
  let theirs: Record<string, string[]>;
  {
    await using qemu = await startGuest(disk);
    // With nobody using the disk, QEMU wouldn't lock its backing file.
    await qemu.execute("nbd-server-start", { addr: { type: "unix", data: { path: join(directory, "nbd") } } });
    await qemu.execute("block-export-add", { type: "nbd", id: "e", "node-name": "disk", writable: true });
    theirs = lockedBytes(qemu.pid);
  }
  await using top = await openFile(overlay, writer);
  await using below = await openFile(base, reader);
  assert.deepEqual([top.lockWarning, below.lockWarning], [undefined, undefined]);
  const ours = lockedBytes(process.pid);
  assert.deepEqual(ours, theirs);
  assert.deepEqual(ours[overlay], ["100-101", "103-103", "201-201", "203-203"]);
  assert.deepEqual(ours[base], ["100-100", "201-201", "203-203"]);
});

test("what we write is closed to QEMU's writers and readers, and open to those that ask for no lock", async () => {
  await using _ours = await openFile(overlay, writer);
  for (const [program, ...args] of [
    ["qemu-io", "-c", "quit", overlay],
    ["qemu-io", "-r", "-c", "quit", overlay],
    ["qemu-img", "info", overlay],
    ["qemu-img", "check", overlay],
    ["qemu-img", "resize", overlay, "2M"],
    ["qemu-img", "rebase", "-u", "-b", "", overlay],
  ] as const) {
    const { status, stderr } = run(program, ...args);
    assert.notEqual(status, 0, `${program} ${args.join(" ")}`);
    assert.match(stderr, /Failed to get (shared )?"(write|consistent read)" lock/, `${program} ${args.join(" ")}`);
  }
  await assert.rejects(startGuest(disk), /Failed to get "write" lock/);
  await assert.rejects(startStorageDaemon(disk), /Failed to get "write" lock/);
  qemuImg("info", "-U", overlay);
});

test("what QEMU writes is closed to our writers and readers, who are told by whom", async () => {
  for (const [start, name] of [
    [startGuest, "qemu-system-x86"],
    [startStorageDaemon, "qemu-storage-da"],
  ] as const) {
    await using qemu = await start(disk);
    const by = inUse(overlay, `${name} \\(pid ${qemu.pid}\\)`);
    await assert.rejects(openFile(overlay, writer), by);
    await assert.rejects(openFile(overlay, reader), by);
    await using looking = await openFile(overlay, { readOnly: true, lock: "none" });
    assert.match(looking.lockWarning ?? "", new RegExp(`being written by ${name} \\(pid ${qemu.pid}\\)`));
    await qemu.kill();
    await using _free = await openFile(overlay, writer);
  }
});

test("a backing file is shared with QEMU both ways, and kept from writers both ways", async () => {
  const readOnly = { ...disk, "read-only": true };
  {
    await using ours = await openFile(base, reader);
    await using _qemu = await startGuest(disk);
    await using _other = await startGuest({ ...disk, file: { driver: "file", filename: base }, "read-only": true });
    assert.equal(ours.lockWarning, undefined);
    await assert.rejects(openFile(base, writer), inUse(base, `.*this process \\(pid ${process.pid}\\)`));
  }
  {
    await using _qemu = await startGuest(readOnly);
    await using _below = await openFile(base, reader);
    await using _top = await openFile(overlay, reader);
    await assert.rejects(openFile(overlay, writer), inUse(overlay, ".*qemu-system-x86 "));
  }
  {
    await using _ours = await openFile(base, reader);
    const { status, stderr } = run("qemu-io", "-c", "quit", base);
    assert.notEqual(status, 0);
    assert.match(stderr, /Failed to get "write" lock/);
    qemuImg("info", base);
  }
});

test("two of ours: readers share, a writer is alone, in one process and in two", async () => {
  {
    await using _one = await openFile(overlay, reader);
    await using _two = await openFile(overlay, reader);
    const other = await openElsewhere(overlay, reader);
    assert.deepEqual(other.said, { opened: true });
    await assert.rejects(openFile(overlay, writer), inUse(overlay, `.*this process \\(pid ${process.pid}\\)`));
    await other.kill();
    const refused = await openElsewhere(overlay, writer);
    assert.equal(refused.said.code, "in-use");
    assert.match(refused.said.message ?? "", new RegExp(`by .+ \\(pid ${process.pid}\\)`));
    await refused.kill();
  }
  const other = await openElsewhere(overlay, writer);
  assert.deepEqual(other.said, { opened: true });
  const by = inUse(overlay, `.+ \\(pid ${other.pid}\\)`);
  await assert.rejects(openFile(overlay, writer), by);
  await assert.rejects(openFile(overlay, reader), by);
  await other.kill();
  await using _free = await openFile(overlay, writer);
  await assert.rejects(openFile(overlay, reader), inUse(overlay, "this process"));
});

test("an open that was refused leaves no lock behind", async () => {
  {
    await using _qemu = await startGuest({ ...disk, "read-only": true });
    await assert.rejects(openFile(overlay, writer), { code: "in-use" });
    qemuImg("info", overlay);
  }
  const { status } = run("qemu-io", "-c", "quit", overlay);
  assert.equal(status, 0);
});

test("without the native calls what QEMU holds is refused, and what is not protected is said", async () => {
  const off = { STREAMDISK_NATIVE: "off" };
  {
    await using qemu = await startGuest(disk);
    for (const options of [writer, reader]) {
      const refused = await openElsewhere(overlay, options, off);
      assert.equal(refused.said.code, "in-use");
      assert.match(refused.said.message ?? "", new RegExp(`being written by qemu-system-x86 \\(pid ${qemu.pid}\\)`));
      await refused.kill();
    }
    const looking = await openElsewhere(overlay, { readOnly: true, lock: "none" }, off);
    assert.match(looking.said.warning ?? "", /being written by qemu-system-x86/);
    await looking.kill();
    const below = await openElsewhere(base, reader, off);
    assert.equal(below.said.opened, true);
    await below.kill();
  }
  const open = await openElsewhere(overlay, writer, off);
  assert.equal(open.said.opened, true);
  assert.match(
    open.said.warning ?? "",
    /not locked, so QEMU and other programs are not kept out \(STREAMDISK_NATIVE=off/,
  );
  const second = await openElsewhere(overlay, writer, off);
  assert.equal(second.said.code, "in-use", "writers of ours are kept apart all the same");
  await second.kill();
  await open.kill();
  const third = await openElsewhere(overlay, writer, off);
  assert.equal(third.said.opened, true);
  await third.kill();
});
