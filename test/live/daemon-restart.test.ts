/**
 * What a QEMU notices when the daemon that serves its disk is killed with -9, restarted, or replaced by a newer one: with
 * `reconnect-delay` that its requests take longer; without it errors, until the daemon is back.
 */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { test } from "node:test";
import { buildProgram } from "../support/built-program.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { below } from "../support/draw.ts";
import { Guest } from "../support/guest/guest.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { pick, rng } from "../support/seed.ts";

const MIB = 2 ** 20;
const SECTOR = 512;
const SIZE = 24 * MIB;
const SPEED = MIB / 4;
const COUNT = 64;
const NEWER = "99.0.0";

/** QEMU's options for a disk of the daemon. */
function diskOf(uri: string, reconnectDelay: number): string[] {
  const { pathname, searchParams } = new URL(uri);
  const server = { type: "unix", path: searchParams.get("socket") };
  const node = { driver: "nbd", "node-name": "disk0", server, export: pathname.slice(1) };
  const blockdev = JSON.stringify({ ...node, "reconnect-delay": reconnectDelay });
  return ["-blockdev", blockdev, "-device", "virtio-blk-pci,drive=disk0"];
}

/** A qemu-io that stays, without `reconnect-delay`. */
class QemuIo implements Disposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  #heard = Promise.withResolvers<string>();

  constructor(uri: string) {
    this.#child = spawn("qemu-io", ["-f", "raw", uri], { stdio: ["pipe", "pipe", "ignore"] });
    this.#child.stdin.on("error", () => {});
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      if (/bytes at offset|failed/.test(line)) this.#heard.resolve(line);
    });
    this.#child.once("exit", () => this.#heard.reject(new Error("qemu-io has ended")));
  }

  /** @returns whether it could */
  async reads(offset: number): Promise<boolean> {
    this.#heard = Promise.withResolvers<string>();
    this.#child.stdin.write(`read ${offset} 4k\n`);
    return !(await this.#heard.promise).includes("failed");
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
  }
}

/** A build of this program that calls itself newer. */
function buildNewer(directory: string): string {
  const place = join(directory, "newer");
  mkdirSync(place);
  const program = buildProgram(place);
  const manifest = join(place, "package.json");
  writeFileSync(manifest, readFileSync(manifest, "utf8").replace(/"version": "[^"]+"/, `"version": "${NEWER}"`));
  return program;
}

test("a guest of QEMU works on over kill -9 of the daemon, and over its upgrade", async (t) => {
  const random = rng("daemon-restart");
  const directory = temporaryDirectory(t);
  const newer = buildNewer(directory);
  await using daemon = new DaemonProcess(directory);
  const base = join(daemon.images, "base.raw");
  const model = noise(SIZE, 5);
  writeFileSync(base, model);
  await daemon.start();
  const { client } = daemon;
  const stream = { speed: SPEED };
  const made = await client.call("createDisk", { body: { name: "vm1", backing: base, backingFormat: "raw", stream } });
  const offered = await client.call("addExport", { body: { name: "base", image: base, format: "raw" } });
  const uri = made.uri ?? "";
  const { guest, diskBytes } = await Guest.boot(makeBootFiles(directory), diskOf(uri, 300));
  await using _guest = guest;
  assert.equal(diskBytes, SIZE);

  const write = async (text: string): Promise<void> => {
    const at = below(random, SIZE / SECTOR - COUNT);
    assert.equal(await guest.does(`write ${at} ${COUNT} ${text}`), "written", guest.log);
    model.fill(`${text}\n`, at * SECTOR, (at + COUNT) * SECTOR);
  };
  const read = async (): Promise<void> => {
    const at = below(random, SIZE / SECTOR - COUNT);
    const expected = createHash("md5").update(model.subarray(at * SECTOR, (at + COUNT) * SECTOR));
    assert.equal((await guest.does(`read ${at} ${COUNT}`)).slice(0, 32), expected.digest("hex"), guest.log);
  };
  /** Restarts the daemon under a request of the guest. @returns how long that took, in milliseconds */
  const restart = async (signal: "SIGKILL" | "SIGTERM", program?: string): Promise<number> => {
    const began = performance.now();
    const ended = daemon.stop(signal);
    const request = write(`over-${signal}`);
    await ended;
    await daemon.start(program);
    await request;
    return performance.now() - began;
  };

  await write("before");
  const outages: number[] = [];
  for (let round = 0; round < pick(2, 20); round++) {
    outages.push(await restart("SIGKILL"));
    await read();
    await write(`round-${round}`);
  }
  const upgrade = await restart("SIGTERM", newer);
  await read();
  const { version } = await client.call("daemon", {});
  assert.equal(version, NEWER);
  const { exports } = await client.call("listExports", {});
  const disk = await client.disk("vm1").info();
  assert.deepEqual([exports.map((each) => each.uri), disk.uri], [[offered.uri], uri], "the same addresses");
  assert.equal(disk.stream?.state, "running", "the stream goes on");
  await guest.powerOff();
  assert.equal((await daemon.stop())?.exit, 0);
  assert.doesNotMatch(guest.log, /I\/O error/);

  const { corruptions = 0, "check-errors": errors } = qemuCheckStatus(disk.image, "qcow2");
  assert.deepEqual([corruptions, errors], [0, 0]);
  const expected = join(directory, "expected.raw");
  writeFileSync(expected, model);
  qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", disk.image, expected);
  const [shortest, longest] = [Math.min(...outages), Math.max(...outages)].map(Math.round);
  t.diagnostic(`kill -9: a request took ${shortest} to ${longest} ms; the upgrade: ${Math.round(upgrade)} ms`);
});

test("without reconnect-delay requests fail at once, and again work when the daemon is back", async (t) => {
  await using daemon = new DaemonProcess(temporaryDirectory(t));
  await daemon.start();
  const { uri = "" } = await daemon.client.call("createDisk", { body: { name: "vm1", size: SIZE } });
  using client = new QemuIo(uri);
  assert.equal(await client.reads(0), true);
  await daemon.stop("SIGKILL");
  const began = performance.now();
  assert.equal(await client.reads(0), false);
  const failedAfter = performance.now() - began;
  await daemon.start();
  const back = performance.now();
  while (!(await client.reads(0)));
  const worksAfter = performance.now() - back;
  t.diagnostic(
    `fails after ${Math.round(failedAfter)} ms; works ${Math.round(worksAfter)} ms after the daemon is back`,
  );
});
