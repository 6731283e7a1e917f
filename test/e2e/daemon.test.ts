/** The daemon and its commands as their users meet them: real processes, real images. */
import assert from "node:assert/strict";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connectNbd } from "../../src/nbd/index.ts";
import {
  assertFails,
  type CliEnd,
  type CliOptions,
  cli,
  cliOk,
  noise,
  peer,
  startCli,
  temporaryDirectory,
} from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";

const MIB = 2 ** 20;
const SIZE = 8 * MIB;

class Bench implements AsyncDisposable {
  readonly daemon: DaemonProcess;
  readonly base: string;
  readonly content = noise(SIZE, 3);

  constructor(t: TestContext, args: readonly string[] = []) {
    this.daemon = new DaemonProcess(temporaryDirectory(t), args);
    this.base = join(this.daemon.images, "base.raw");
    writeFileSync(this.base, this.content);
  }

  get options(): CliOptions {
    return { env: this.daemon.env, cwd: this.daemon.images };
  }

  /** A command that must succeed. */
  ok(...args: string[]): Promise<CliEnd> {
    return cliOk(args, this.options);
  }

  /** What a command says with `--json`. */
  async json<T>(...args: string[]): Promise<T> {
    return JSON.parse((await this.ok(...args, "--json")).stdout) as T;
  }

  /** A disk over the base. @returns its URI */
  async create(name: string, ...more: string[]): Promise<string> {
    const args = ["disk", "create", name, "--backing", "./base.raw", "--backing-format", "raw", ...more];
    return (await this.json<{ uri: string }>(...args)).uri;
  }

  fails(...args: string[]): Promise<CliEnd> {
    return cli(args, this.options);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.daemon[Symbol.asyncDispose]();
  }
}

/** A command that goes on for a while; `heard` resolves when it has said something. */
function waitFor({ options }: Bench, ...args: string[]) {
  const { promise: heard, resolve } = Promise.withResolvers<void>();
  return { waiter: startCli(args, { ...options, onLine: () => resolve() }), heard };
}

interface DiskJson {
  readonly name: string;
  readonly image: string;
  readonly length: number;
  readonly hydrated: boolean;
  readonly backing?: string;
  readonly stream?: { readonly id: string; readonly state: string };
}

test("a stream down to a base keeps it over kill -9", async (t) => {
  await using bench = new Bench(t);
  await bench.daemon.start();
  const middle = join(bench.daemon.images, "middle.qcow2");
  peer("qemu-img", "create", "-q", "-f", "qcow2", "-b", bench.base, "-F", "raw", middle);
  peer("qemu-io", "-f", "qcow2", "-c", "write -q -P 0x77 0 3M", "-c", "write -q -z 4M 1M", middle);
  bench.content.fill(0x77, 0, 3 * MIB).fill(0, 4 * MIB, 5 * MIB);
  await bench.ok("disk", "create", "vm1", "--backing", "./middle.qcow2", "--backing-format", "qcow2");
  const stream = ["stream", "vm1", "--base", "./base.raw"];
  const { base } = await bench.json<{ base?: string }>(...stream, "--speed", "100K", "--detach");
  assert.equal(base, bench.base);
  await sleep(1000);
  await bench.daemon.stop("SIGKILL");
  await bench.daemon.start();
  const { waiter, heard } = waitFor(bench, "stream", "vm1", "--json");
  await heard;
  await bench.ok("speed", "vm1", "max");
  assert.equal((await waiter.ended).exit, 0);
  const disk = await bench.json<DiskJson>("disk", "show", "vm1");
  assert.equal(disk.backing, bench.base);
  await bench.daemon.stop();
  const expected = join(bench.daemon.images, "expected.raw");
  writeFileSync(expected, bench.content);
  rmSync(middle);
  peer("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk.image, expected);
});

test("a disk is made, streamed over a restart, and stands alone", async (t) => {
  await using bench = new Bench(t);
  const { daemon } = bench;
  await daemon.start();
  const uri = await bench.create("vm1");
  assert.equal(peer("nbdinfo", "--size", uri), `${SIZE}\n`);
  const detached = await bench.json<{ state: string; id: string }>("stream", "vm1", "--speed", "256K", "--detach");
  assert.equal(detached.state, "running");
  const { client } = daemon;
  await client.disk("vm1").setSpeed(MIB / 2);
  // A waiter sees the restart, and the end.
  const { waiter, heard } = waitFor(bench, "stream", "vm1", "--json");
  await heard;
  assert.equal((await daemon.stop())?.exit, 0);
  await daemon.start();
  const [job] = await bench.json<{ id: string; state: string; disk: string }[]>("jobs");
  assert.deepEqual([job?.id, job?.disk], [detached.id, "vm1"]);
  await bench.ok("speed", "vm1", "max");
  const end = await waiter.ended;
  assert.equal(end.exit, 0, end.stderr);
  const last = JSON.parse(end.stdout.trimEnd().split("\n").at(-1) ?? "") as { id: string; state: string };
  assert.deepEqual([last.id, last.state], [detached.id, "completed"]);

  const disk = await bench.json<DiskJson>("info", "vm1");
  assert.deepEqual([disk.hydrated, disk.backing, disk.length], [true, undefined, SIZE]);
  assert.deepEqual(await bench.json("jobs"), []);
  assert.equal((await bench.json<unknown[]>("jobs", "--history")).length, 1);
  const { stdout } = await bench.ok("events", "--disk", "vm1", "--json");
  const types = stdout
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { type: string }).type);
  assert.deepEqual(types.slice(0, 4), ["disk-opened", "disk-created", "job-created", "job-started"]);
  assert.deepEqual(types.slice(-2), ["job-completed", "hydrated"]);
  assert.equal((await daemon.stop())?.exit, 0);
  rmSync(bench.base);
  writeFileSync(join(daemon.images, "expected.raw"), bench.content);
  peer("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", disk.image, join(daemon.images, "expected.raw"));
});

test("commands for people: lists, one disk, its map, its size, its source", async (t) => {
  await using bench = new Bench(t);
  await bench.daemon.start();
  assert.match((await bench.ok("disk", "ls")).stdout, /no disks.*disk create/);
  await bench.create("vm1");
  assert.match((await bench.ok("disk", "ls")).stdout, /^NAME .*\nvm1 +8 MiB +0% +served +0 +\/.*base\.raw\n$/);
  const wide = (await bench.ok("disk", "ls", "--wide", "--host", "this host")).stdout;
  assert.match(wide, /^NAME .*\nvm1 +served +8 MiB +hold.* this host +\/.*base\.raw\n$/);
  assert.match((await bench.ok("disk", "ls", "--host", "far.example")).stdout, /^No disk depends on 'far\.example'$/m);
  assert.match((await bench.ok("info", "vm1")).stdout, /^missing: 8 MiB \(8388608 bytes\)$/m);
  assert.match((await bench.ok("map", "vm1")).stdout, /^0 +0x800000 +missing +0 +1$/m);
  assert.deepEqual((await bench.json<unknown[]>("disk", "map", "vm1")).length, 1);
  assert.equal((await bench.json<DiskJson>("disk", "resize", "vm1", "9M")).length, 9 * MIB);
  assertFails(await bench.fails("disk", "resize", "vm1", "1M"), 77, /shrink/);
  const moved = join(bench.daemon.images, "moved.raw");
  writeFileSync(moved, bench.content);
  assert.equal((await bench.json<DiskJson>("disk", "replace-source", "vm1", "./moved.raw")).backing, moved);
  assert.match((await bench.ok("source", "ls")).stdout, /moved\.raw +ok +9 MiB +\S+ \S*B +0 +\S+( ms)? +- +vm1$/m);
  assert.match((await bench.ok("source", "limit", "./", "5M/s")).stdout, /images +5 MiB\/s +set here$/m);
  assert.match((await bench.ok("source", "limit", "./", "default")).stdout, /all\) +no limit +default$/m);
  assert.match((await bench.ok("stream", "vm1")).stdout, /'vm1' stands alone now/);
  const { image } = await bench.json<DiskJson>("disk", "show", "vm1");
  await bench.ok("disk", "rm", "vm1", "--delete-file");
  assert(!existsSync(image));
});

test("a stream is paused, resumed, limited, and cancelled; steps go on from there", async (t) => {
  await using bench = new Bench(t);
  await bench.daemon.start();
  await bench.create("vm1", "--stream", "--speed", "256K");
  assert.match((await bench.ok("pause", "vm1")).stdout, /is paused.*streamdisk resume vm1/);
  assertFails(await bench.fails("stream", "vm1"), 75, /resume it/);
  await bench.daemon.stop();
  await bench.daemon.start();
  assert.equal((await bench.json<DiskJson>("info", "vm1")).stream?.state, "paused");
  assert.match((await bench.ok("resume", "vm1")).stdout, /stream of 'vm1' (?:runs|waits for its turn)/);
  assert.match((await bench.ok("speed", "vm1", "300K")).stdout, /at most 300 KiB\/s/);
  assertFails(await bench.fails("stream", "vm1", "--step"), 75, /pause or cancel it first/);
  assert.match((await bench.ok("cancel", "vm1")).stdout, /cancelled.*what was fetched stays/);
  let exit: number | null = 0;
  for (let steps = 0; exit === 0; steps++) {
    assert(steps < 20);
    exit = (await bench.fails("stream", "vm1", "--step", "--length", "2M")).exit;
  }
  assert.equal(exit, 10);
  assert.equal((await bench.json<DiskJson>("info", "vm1")).hydrated, true);
});

test("Ctrl-C ends the waiting and leaves the stream running", async (t) => {
  await using bench = new Bench(t);
  await bench.daemon.start();
  await bench.create("vm1");
  const { waiter, heard } = waitFor(bench, "stream", "vm1", "--speed", "256K", "--json");
  await heard;
  waiter.child.kill("SIGINT");
  const { exit, stderr } = await waiter.ended;
  assert.equal(exit, 130, stderr);
  assert.match(stderr, /goes on in the daemon.*'streamdisk stream vm1'.*'streamdisk cancel vm1'/);
  assert.equal((await bench.json<DiskJson>("info", "vm1")).stream?.state, "running");
});

test("a file that the daemon has open names the disk", async (t) => {
  await using bench = new Bench(t);
  await bench.daemon.start();
  await bench.create("vm1");
  const image = join(bench.daemon.state, "images/vm1.qcow2");
  assertFails(await bench.fails("stream", image), 75, /the disk 'vm1' of the daemon.*streamdisk stream vm1/);
});

test("an export serves others, and a disk of another daemon comes from it", async (t) => {
  await using repository = new Bench(t);
  await repository.daemon.start();
  const { uri } = await repository.json<{ uri: string }>(
    "export",
    "add",
    "debian",
    "./base.raw",
    "-f",
    "raw",
    "--port",
    "0",
  );
  await using host = new Bench(t, ["--allow", uri.replace(/\/debian$/, "/")]);
  await host.daemon.start();
  await host.ok("disk", "create", "vm1", "--backing", uri, "--backing-format", "raw", "--stream", "--speed", "1M");
  const job = () => host.daemon.client.disk("vm1").streamInfo();
  while ((await job()).copiedBytes === 0) await sleep(20);
  // The repository dies in mid-stream and comes back, under the same address.
  await repository.daemon.stop("SIGKILL");
  for (;;) {
    const { stream } = await host.json<DiskJson>("info", "vm1");
    if (stream?.state === "waiting") break;
    assert.equal(stream?.state, "running");
  }
  const { missingBytes } = await job();
  assert(missingBytes > 0 && missingBytes < SIZE, `${missingBytes} bytes are missing`);
  assert.match((await host.ok("source", "ls")).stdout, /lost/);
  await repository.daemon.start();
  assert.match((await repository.ok("export", "ls")).stdout, new RegExp(`debian .*${uri}`));
  await host.ok("speed", "vm1", "max");
  await host.ok("stream", "vm1");
  const types = (await host.ok("events")).stdout;
  for (const type of ["source-lost", "job-waiting", "source-back", "job-completed"]) assert(types.includes(type), type);
  const disk = await host.daemon.client.disk("vm1").info();
  await using guest = await connectNbd(disk.uri ?? "");
  const bytes = Buffer.alloc(SIZE);
  await guest.read(0, bytes);
  assert(bytes.equals(host.content));
  await repository.ok("export", "rm", "debian");
});

test("events are followed over a restart", async (t) => {
  await using bench = new Bench(t);
  await bench.daemon.start();
  const lines: { id: number; type: string }[] = [];
  const follower = startCli(["events", "--follow", "--after", "0", "--json"], {
    ...bench.options,
    onLine: (line) => lines.push(JSON.parse(line) as { id: number; type: string }),
  });
  const seen = async (count: number): Promise<void> => {
    while (lines.filter(({ type }) => type === "daemon-started").length < count) await sleep(20);
  };
  await seen(1);
  await bench.daemon.stop("SIGKILL");
  await bench.daemon.start();
  await bench.create("vm1");
  await seen(2);
  while (!lines.some(({ type }) => type === "disk-created")) await sleep(20);
  follower.child.kill("SIGINT");
  await follower.ended;
  assert.deepEqual(
    lines.map(({ id }) => id),
    lines.map((_, index) => index + 1),
  );
});

test("one state directory has one daemon, and over TCP there is a token", async (t) => {
  await using bench = new Bench(t, ["--port", "0"]);
  const [, url = ""] = await bench.daemon.start();
  const { state } = bench.daemon;
  assertFails(await cli(["daemon", "--state-directory", state]), 75, /in use by another daemon/);
  const token = join(state, "token");
  await cliOk(["disk", "ls", "--daemon", url, "--token-file", token]);
  assertFails(await cli(["disk", "ls", "--daemon", url]), 77, /token/i);
  assertFails(await cli(["disk", "ls", "--daemon", state.replace("state", "none")]), 69, /'streamdisk daemon'/);
  assertFails(await bench.fails("disk", "create", "x", "--backing", "/etc/shadow"), 77, /may not open '\/etc\/shadow'/);
  assertFails(await bench.fails("disk", "show", "x"), 66, /no disk 'x'/);
  assertFails(await bench.fails("disk", "map", "x"), 66, /no disk 'x'/);
  assertFails(await bench.fails("disk", "create", "../x", "--size", "1M"), 64, /name/);
});
