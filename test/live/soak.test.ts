/**
 * Real sockets for longer: several clients, one of them libnbd's, do as they like with a disk while it is streamed and its source
 * comes and goes. With the policy "hold" nobody ever gets an error, no byte is wrong, and in the end the disk stands alone.
 */
import assert from "node:assert/strict";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { serveDisk } from "../../src/engine/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { cliOk, noise, temporaryDirectory } from "../support/cli.ts";
import { between, oneOf, type Random } from "../support/draw.ts";
import { type NbdServerProcess, startNbdkit } from "../support/nbd-servers.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { pick, rng, sample } from "../support/seed.ts";
import { libnbdClient, SoakModel } from "./soak-clients.ts";

const MIB = 2 ** 20;
const SIZE = 32 * MIB;
/** The last of it is libnbd's. */
const SHARED = 28 * MIB;
const SECONDS = pick(4, 60);
// With libnbd's, no more than may be held at a time.
const CLIENTS = 3;
const DEPTH = 2;

const CELLS = [
  { name: "qcow2", format: "qcow2", options: "compat=1.1" },
  { name: "qcow2 of small clusters", format: "qcow2", options: "compat=1.1,cluster_size=4096" },
  { name: "qcow2 of subclusters", format: "qcow2", options: "compat=1.1,extended_l2=on" },
  { name: "QED", format: "qed", options: "cluster_size=64k" },
] as const;

/** Comes and goes in all the ways from which it comes back, until the time is over. */
async function blink(server: NbdServerProcess, errorFile: string, random: Random): Promise<number> {
  const until = performance.now() + SECONDS * 1000;
  let times = 0;
  for (; performance.now() < until; times++) {
    await sleep(between(random, 20, 500));
    const away = between(random, 20, 600);
    switch (oneOf(random, ["killed", "frozen", "errors"])) {
      case "killed":
        await server.stop("SIGKILL");
        await sleep(away);
        await server.start();
        break;
      case "frozen":
        await server.freeze();
        await sleep(away);
        server.thaw();
        break;
      default:
        writeFileSync(errorFile, "");
        await sleep(away);
        rmSync(errorFile);
    }
  }
  return times;
}

async function run(t: TestContext, { name, format, options }: (typeof CELLS)[number]): Promise<void> {
  const directory = temporaryDirectory(t);
  const at = (file: string): string => join(directory, file);
  const content = noise(SIZE, 21);
  for (let from = MIB; from < SIZE; from += 2 * MIB) content.fill(0, from, from + MIB);
  writeFileSync(at("base.raw"), content);
  await using server = await startNbdkit([
    ...["--filter=error", "--filter=delay", "file", at("base.raw"), "rdelay=2ms"],
    ...["error=EIO", "error-pread-rate=100%", `error-file=${at("errors")}`],
  ]);
  const image = at(`vm.${format}`);
  qemuImg("create", "-q", "-f", format, "-o", options, "-b", server.uri, "-F", "raw", image);
  await using disk = await serveDisk({
    ...{ image, format, backing: server.uri, backingFormat: "raw" },
    onSourceError: { holdMs: Number.POSITIVE_INFINITY, afterwards: "error" },
    stream: { speed: Math.ceil(SIZE / 2 / SECONDS) },
  });
  const model = new SoakModel(content, SHARED);
  let over = false;
  const clients = Array.from({ length: CLIENTS }, async (_, index) => {
    await using node = await connectNbd(disk.uri, { connections: 1, timeoutMs: 600_000 });
    const random = rng(`soak ${name} client ${index}`);
    const goOn = async (): Promise<void> => {
      while (!over) await model.act(node, random);
    };
    await Promise.all(Array.from({ length: DEPTH }, goOn));
  });
  const python = { seed: Math.floor(rng(`soak ${name} libnbd`)() * 2 ** 31), stop: at("stop"), result: at("result") };
  const peer = libnbdClient(disk.uri, { offset: SHARED, length: SIZE - SHARED }, python);
  const acting = Promise.all([...clients, peer]);
  const hurry = async (): Promise<number> => {
    const times = await blink(server, at("errors"), rng(`soak ${name} source`));
    await disk.setSpeed(undefined);
    await disk.hydrated();
    // And a little while without a source.
    await server.stop();
    renameSync(at("base.raw"), at("gone"));
    await sleep(300);
    over = true;
    writeFileSync(at("stop"), "");
    return times;
  };
  const hurrying = hurry();
  hurrying.catch(() => {});
  // Who fails, fails the test at once.
  await Promise.race([acting, hurrying]);
  const times = await hurrying;
  const [said] = (await acting).slice(-1);

  readFileSync(at("result")).copy(content, SHARED);
  {
    await using node = await connectNbd(disk.uri);
    const bytes = Buffer.alloc(SIZE);
    await node.read(0, bytes);
    assert(bytes.equals(content), `wrong at ${bytes.findIndex((byte, index) => byte !== content[index])}`);
  }
  const { hydrated, missingBytes, source } = await disk.info();
  assert.deepEqual([hydrated, missingBytes, source.state], [true, 0, "none"]);
  await disk.close();
  writeFileSync(at("expected.raw"), content);
  // QED has no way to use a cluster again that nothing refers to.
  if (format === "qed") await cliOk(["check", image, "--repair", "leaks"]);
  qemuCheck(image, format);
  qemuImg("compare", "-q", "-f", format, "-F", "raw", image, at("expected.raw"));
  t.diagnostic(`the source was away ${times} times; ${JSON.stringify(model.counts)}, ${said}`);
}

for (const cell of sample("soak", CELLS, 1)) {
  test(`clients and a stream on a disk whose source comes and goes, ${cell.name}`, (t) => run(t, cell));
}
