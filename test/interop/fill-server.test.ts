/** Whose QEMU's NBD server is, and whether its socket can be reached: by a process after one that was killed, by another user. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { RunningDomain } from "../../src/domain/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import { monitorThat } from "../support/monitor-that.ts";
import { describedAs, type QemuDisk, startQemuDisk } from "../support/qemu-disk.ts";

const NOBODY = 65534;
const SOMEBODY = 65533;

async function mustBeClean({ domain }: QemuDisk): Promise<void> {
  assert.deepEqual(await domain.qmp.execute("query-block-exports", {}), []);
  const objects = await domain.qmp.execute("qom-list", { path: "/objects" });
  assert.ok(!objects.includes("streamdisk-fill"), objects.join(", "));
}

function leftOf({ directory }: QemuDisk): string[] {
  return readdirSync(directory).filter((name) => name.startsWith("streamdisk"));
}

/** A process that begins to fill a disk, and then does nothing any more. */
async function startFilling({ directory }: QemuDisk): Promise<ChildProcess> {
  const options = { qmp: join(directory, "qmp"), description: describedAs("vm"), socketDirectory: directory };
  const program = `
    import { RunningDomain } from ${JSON.stringify(join(import.meta.dirname, "../../src/domain/index.ts"))};
    const domain = new RunningDomain(${JSON.stringify(options)});
    await domain.stream("vda");
    domain.qmp.disconnect();
    console.log("filling");
    setInterval(() => {}, 1e6);`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  return child;
}

for (const exportsToo of [true, false]) {
  test(`a server that a process which died has left ${exportsToo ? "with" : "without"} exports is known as ours`, async (t) => {
    const disk = await startQemuDisk(t, { format: "qcow2" });
    const child = await startFilling(disk);
    t.after(() => child.kill("SIGKILL"));
    const living = await disk.domain.stream("vda");
    assert.equal(living.method, "block-stream");
    assert.match(living.progress.warnings[0]!, /another process of streamdisk uses QEMU's NBD server/);
    child.kill("SIGKILL");
    await once(child, "exit");
    const [left] = await disk.domain.qmp.execute("query-block-exports", {});
    if (!exportsToo) await disk.qemu.execute("block-export-del", { id: left!.id, mode: "hard" });
    const stream = await disk.domain.stream("vda");
    assert.equal(stream.method, "fill");
    await stream.run();
    await mustBeClean(disk);
  });
}

test("a server that somebody else has started stays, with or without exports of theirs", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2", size: 2 ** 20 });
  const addr = { type: "unix", data: { path: join(disk.directory, "theirs") } };
  await disk.qemu.execute("nbd-server-start", { addr });
  const first = await disk.domain.stream("vda");
  assert.equal(first.method, "block-stream");
  await mustBeClean(disk);
  const theirs = { type: "nbd", id: "theirs", "node-name": "top", name: "theirs" };
  await disk.qemu.execute("block-export-add", theirs);
  const second = await disk.domain.stream("vda");
  assert.equal(second.method, "block-stream");
  assert.deepEqual(await disk.domain.qmp.execute("query-block-exports", {}), [{ id: "theirs", nodeName: "top" }]);
  await second.run();
});

for (const command of ["object-add", "nbd-server-start", "block-export-add"]) {
  for (const [what, code, after] of [
    ["is cancelled at", undefined, false],
    ["hears no answer to", "io", true],
  ] as const) {
    test(`who ${what} ${command} leaves nothing that nobody knows of`, async (t) => {
      const disk = await startQemuDisk(t, { format: "qcow2" });
      const stop = new AbortController();
      const message = `no answer to ${command}`;
      const monitor = monitorThat(join(disk.directory, "qmp"), { command, after }, () => {
        if (code === undefined) stop.abort(new Error(message));
        else throw new StreamdiskError(code, message);
      });
      await using domain = new RunningDomain({
        ...{ qmp: monitor, description: describedAs("vm"), socketDirectory: disk.directory },
      });
      await assert.rejects(domain.stream("vda", { signal: stop.signal }), { message });
      assert.deepEqual(await domain.qmp.execute("query-block-exports", {}), []);
      assert.deepEqual(leftOf(disk), []);
      const stream = await domain.stream("vda");
      assert.equal(stream.method, "fill");
      await stream.run();
      await mustBeClean({ ...disk, domain });
    });
  }
}

for (const answered of [true, false]) {
  test(`a domain that is let go of during a look ${answered ? "leaves nothing in QEMU" : "gives up what QEMU does not let it take out"}`, async (t) => {
    const disk = await startQemuDisk(t, { format: "qcow2" });
    let ending: Promise<void> | undefined;
    const qmp = monitorThat(join(disk.directory, "qmp"), { command: "block-export-add", after: true }, () => {
      ending = domain[Symbol.asyncDispose]();
      if (!answered) domain.qmp[Symbol.dispose]();
    });
    const domain = new RunningDomain({ qmp, description: describedAs("vm"), socketDirectory: disk.directory });
    await assert.rejects(domain.tally("vda"), { code: "shutdown" });
    await ending;
    if (answered) await mustBeClean(disk);
    const stream = await disk.domain.stream("vda");
    assert.equal(stream.method, "fill");
    await stream.run();
    await mustBeClean(disk);
  });
}

test("a QEMU that was started again has nothing of ours, and that is told as its end", async (t) => {
  const disk = await startQemuDisk(t, { format: "qcow2", delay: 20 });
  const stream = await disk.domain.stream("vda", { speed: 2 ** 20 });
  const ended = assert.rejects(stream.run(), { code: "shutdown", message: /QEMU of 'vm:vda' has ended/ });
  while (stream.progress.copiedBytes === 0) await disk.domain.qmp.change(50);
  // As of one that was killed and started again between two looks at it: export, server and sign are gone.
  await disk.qemu.execute("object-del", { id: "streamdisk-fill" });
  await disk.qemu.execute("nbd-server-stop");
  await ended;
});

// Only root can run a QEMU as another user, and be another user itself.
if (process.getuid?.() === 0) {
  test("root gives a QEMU of another user a directory that both can use", async (t) => {
    const disk = await startQemuDisk(t, { format: "qcow2", args: ["-runas", `${NOBODY}:${NOBODY}`] });
    chmodSync(disk.directory, 0o755);
    const stream = await disk.domain.stream("vda");
    assert.equal(stream.method, "fill");
    await stream.run();
    assert.deepEqual([stream.progress.state, stream.progress.missingBytes], ["completed", 0]);
    await mustBeClean(disk);
    assert.deepEqual(leftOf(disk), []);
  });

  test("a directory that a QEMU of another user can't come to is said, and QEMU streams by itself", async (t) => {
    const disk = await startQemuDisk(t, { format: "qcow2", args: ["-runas", `${NOBODY}:${NOBODY}`] });
    const stream = await disk.domain.stream("vda");
    assert.equal(stream.method, "block-stream");
    assert.match(stream.progress.warnings[0]!, /QEMU can't make the socket '.*: Permission denied.*as the user 65534/);
    await stream.run();
    await mustBeClean(disk);
  });

  for (const [whose, args, message] of [
    ["another user", ["-runas", `${NOBODY}:${NOBODY}`], /can't make the socket .*only root can give it a directory/],
    ["root", [], /has made its socket '.*' as another user, and it can't be connected to/],
  ] as const) {
    test(`a user meets a QEMU of ${whose}: QEMU streams by itself, and it is said why`, async (t) => {
      const disk = await startQemuDisk(t, { format: "qcow2", args });
      chmodSync(disk.directory, 0o755);
      chmodSync(join(disk.directory, "qmp"), 0o777);
      mkdirSync(join(disk.directory, "sockets"), { mode: 0o777 });
      chmodSync(join(disk.directory, "sockets"), 0o777);
      process.seteuid!(SOMEBODY);
      try {
        await using domain = new RunningDomain({
          ...{ qmp: join(disk.directory, "qmp"), description: describedAs("vm") },
          socketDirectory: join(disk.directory, "sockets"),
        });
        const stream = await domain.stream("vda");
        assert.equal(stream.method, "block-stream");
        assert.match(stream.progress.warnings[0]!, message);
        await stream.run();
      } finally {
        process.seteuid!(0);
      }
      await mustBeClean(disk);
      assert.deepEqual(readdirSync(join(disk.directory, "sockets")), []);
    });
  }
}
