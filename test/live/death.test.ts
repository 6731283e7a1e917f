/**
 * The source dies while a guest runs and a stream is under way: what dies how, at which policy, how far on. Reads of what only
 * the source has get what the policy says; local data and what the source has said is zero are answered throughout, on the
 * same connection; no byte is wrong; nothing that was fetched is lost; and when the source is back all goes on by itself.
 *
 * Short patience stands for long. The cells of real times are run with all the others alone (STREAMDISK_TEST=full).
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseSourcePolicy } from "../../src/cli/source-policy.ts";
import { serveDisk } from "../../src/engine/index.ts";
import { connectNbd } from "../../src/nbd/index.ts";
import { noise, temporaryDirectory } from "../support/cli.ts";
import { qemuCheck } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { full, sample } from "../support/seed.ts";
import { DATA, makeBase, type Outcome, Scene, SIZE } from "./death-scene.ts";
import { type Death, type DyingSource, FROZEN_LONG, HTTP_DEATHS, KILLED, NBD_DEATHS } from "./dying-source.ts";

const MIB = 2 ** 20;
const KIB64 = 65536;
/** What a connection may have held at a time. */
const MOST_HELD = 8;

interface Cell {
  readonly death: Death;
  readonly policy: string;
  /** How far the stream is. */
  readonly percent: number;
  /** When the source is back, from its death. Absent: as soon as everybody has met the policy. */
  readonly backAfterMs?: number;
}

const POLICIES = ["hold", "hold:1500ms,error", "error", "hold:500ms,pause"];
const PERCENTS = [10, 50, 90];

const matrix = (deaths: readonly Death[], policies: readonly string[], percents: readonly number[]): Cell[] =>
  deaths.flatMap((death) => policies.flatMap((policy) => percents.map((percent) => ({ death, policy, percent }))));

const MORTAL = [...NBD_DEATHS, ...HTTP_DEATHS].filter(({ kind }) => kind === "lost");

const CELLS: readonly Cell[] = [
  ...matrix(NBD_DEATHS, POLICIES, PERCENTS),
  ...matrix(HTTP_DEATHS, ["hold", "hold:1500ms,error"], PERCENTS),
  ...matrix(MORTAL, ["hold:20s,error", "hold:20s,pause"], [50]).map((cell) => ({ ...cell, backAfterMs: 1000 })),
];

const REAL_TIMES: readonly Cell[] = [
  { death: KILLED, policy: "hold:30s,error", percent: 50 },
  { death: KILLED, policy: "hold:30s,error", percent: 50, backAfterMs: 1000 },
  { death: KILLED, policy: "hold", percent: 50, backAfterMs: 30_000 },
  { death: KILLED, policy: "pause", percent: 50 },
  ...matrix([FROZEN_LONG], POLICIES, [50]),
  { death: FROZEN_LONG, policy: "hold:30s,error", percent: 50 },
];

async function run(t: TestContext, cell: Cell): Promise<void> {
  const { death, policy, percent } = cell;
  const directory = temporaryDirectory(t);
  const base = join(directory, "base.raw");
  const model = makeBase(base);
  await using source = await death.start(base);
  const image = join(directory, "vm.qcow2");
  await using disk = await serveDisk({
    ...{ image, create: true, backing: source.uri, backingFormat: "raw" },
    onSourceError: parseSourcePolicy(policy),
  });
  // One connection: what is held there is in nobody's way.
  await using guest = await connectNbd(disk.uri, { connections: 1, timeoutMs: 600_000 });
  const scene = new Scene(disk, guest, model, death.knowsHoles);
  const written = noise(KIB64, 99);
  written.copy(model, SIZE - MIB);
  await guest.write(SIZE - MIB, written);

  for (let copied = 0; copied < (DATA * percent) / 100; ) copied += (await disk.step({ length: MIB })).copied;
  // A chunk of it is on its way when the source dies, and no more than one.
  await disk.stream({ speed: 1 });
  const atDeath = await disk.info();
  assert(!atDeath.hydrated && atDeath.missingBytes > 0);
  const endLocalReads = scene.readLocalOn();
  const dying = new Dying(scene, cell, source);
  await source.die();
  await disk.setSpeed(undefined);
  await dying.run();
  const dead = await disk.info();
  assert(dead.missingBytes <= atDeath.missingBytes, "what was fetched stays");
  await scene.readLocal();
  const { count, slowestMs } = await endLocalReads();
  assert(count > 0);
  t.diagnostic(`${count} local reads meanwhile, the slowest in ${slowestMs.toFixed(1)} ms`);

  if (death.kind === "changed") {
    await scene.until(() => scene.events.includes("stream: changed"), "a stream that failed");
    assert.deepEqual([dead.hydrated, (await disk.info()).source.state], [false, "changed"]);
    await disk.close();
    // QEMU's tools open what is below, and not every kind of it.
    qemuImg("rebase", "-u", "-f", "qcow2", "-b", "", image);
    qemuCheck(image, "qcow2");
    return;
  }
  await scene.until(async () => (await disk.info()).hydrated, "hydrated");
  for (let at = 0; at < SIZE; at += MIB) assert.equal(await scene.read(at, MIB), "right");
  await guest.close();
  await disk.close();
  const expected = join(directory, "expected.raw");
  writeFileSync(expected, model);
  qemuCheck(image, "qcow2");
  qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", image, expected);
}

/** What a guest meets from the death of the source on, which is near, until it is back. */
class Dying {
  readonly #scene: Scene;
  readonly #cell: Cell;
  readonly #source: DyingSource;
  readonly #since = performance.now();
  readonly #settled: Outcome[] = [];
  readonly #reads: Promise<void>[] = [];
  #firstErrorMs = Number.POSITIVE_INFINITY;

  constructor(scene: Scene, cell: Cell, source: DyingSource) {
    this.#scene = scene;
    this.#cell = cell;
    this.#source = source;
  }

  async run(): Promise<void> {
    const { kind, name } = this.#cell.death;
    for (let i = 0; i < 3; i++) this.#read();
    await this.#scene.readLocal();
    if (kind === "changed") return await this.#allAre("error");
    if (kind === "late") {
      // It may answer yet: nobody is told anything before its time is over, and then it is as if nothing had been.
      await sleep(300);
      await this.#scene.readLocal();
      assert.deepEqual(this.#scene.events, []);
      if (name !== "slow") assert.deepEqual(this.#settled, []);
    } else await this.#lost();
    const mayHold = kind === "late" || this.#isHeld();
    await this.#source.revive();
    if (mayHold) await this.#allAre("right");
  }

  /** The last bytes of the base are missing: the stream goes from front to back. */
  #place(index: number): number {
    return SIZE - MIB - (index + 1) * KIB64;
  }

  #read(): void {
    const place = this.#place(this.#reads.length);
    const read = async (): Promise<void> => {
      const outcome = await this.#scene.read(place, 4096);
      if (outcome === "error") this.#firstErrorMs = Math.min(this.#firstErrorMs, performance.now() - this.#since);
      this.#settled.push(outcome);
    };
    this.#reads.push(read());
  }

  async #allAre(outcome: Outcome): Promise<void> {
    await Promise.all(this.#reads);
    assert.deepEqual(
      this.#settled,
      this.#reads.map(() => outcome),
    );
  }

  /** Whether the policy has everybody wait for as long as the source is away. */
  #isHeld(): boolean {
    const { holdMs } = parseSourcePolicy(this.#cell.policy);
    return (this.#cell.backAfterMs ?? (holdMs === Number.POSITIVE_INFINITY ? 0 : holdMs)) < holdMs;
  }

  async #lost(): Promise<void> {
    const { disk, events } = this.#scene;
    const { policy, backAfterMs = 300 } = this.#cell;
    const { holdMs, afterwards } = parseSourcePolicy(policy);
    await this.#scene.until(async () => (await disk.info()).source.state === "lost", "lost");
    await this.#scene.until(async () => (await disk.info()).stream?.state === "waiting", "a stream that waits");
    assert.equal((await disk.info()).stream?.reason?.code, "source-lost");
    if (this.#isHeld()) {
      await this.#scene.until(async () => (await disk.info()).source.held === 3, "three held");
      await this.#crowd();
      await sleep(Math.max(0, backAfterMs - (performance.now() - this.#since)));
      assert.deepEqual([this.#settled, (await disk.info()).source.held], [[], MOST_HELD]);
      assert(!events.includes("pause"));
    } else {
      await this.#allAre("error");
      assert(this.#firstErrorMs >= holdMs, `patience ended after ${this.#firstErrorMs} ms`);
      await this.#noMorePatience(holdMs);
      assert.equal(events.includes("pause"), afterwards === "pause");
    }
    await this.#scene.readLocal();
  }

  /** More than may be held: the others get the error at once. None of them is left in `#settled`. */
  async #crowd(): Promise<void> {
    const { afterwards } = parseSourcePolicy(this.#cell.policy);
    while (this.#reads.length < MOST_HELD) this.#read();
    const { disk, events } = this.#scene;
    await this.#scene.until(async () => (await disk.info()).source.held === MOST_HELD, "many held");
    if (afterwards === "pause") return;
    for (let i = 0; i < 3; i++) assert.equal(await this.#scene.read(this.#place(MOST_HELD + i), 4096), "error");
    assert(!events.includes("pause"));
  }

  /** Patience ends once for all: a read that comes later is not held. */
  async #noMorePatience(holdMs: number): Promise<void> {
    const began = performance.now();
    for (let i = 0; i < 5; i++) assert.equal(await this.#scene.read(this.#place(i), 4096), "error");
    assert.equal((await this.#scene.disk.info()).source.held, 0);
    // Of long patience it can be said that they did not have it each.
    assert(holdMs < 10_000 || performance.now() - began < holdMs, "later reads have waited");
  }
}

function title({ death, policy, percent, backAfterMs }: Cell): string {
  const back = backAfterMs === undefined ? "" : `, back after ${backAfterMs / 1000} s`;
  return `a source that is ${death.name} at ${percent} %, ${policy}${back}`;
}

for (const cell of sample("death", CELLS, 6)) test(title(cell), (t) => run(t, cell));

if (full) {
  // They do little but wait.
  test("real times", { concurrency: REAL_TIMES.length }, async (t) => {
    await Promise.all(REAL_TIMES.map((cell) => t.test(title(cell), (t) => run(t, cell))));
  });
}
