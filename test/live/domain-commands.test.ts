/**
 * What a person does with a machine whose requests wait for a dead source: QEMU would answer none of it until they are answered. And what
 * a person has paused nobody else lets go on.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { halfNoise } from "../support/qemu-disk.ts";
import { full, pick, rng, sample } from "../support/seed.ts";
import { type Death, FROZEN_LONG, KILLED } from "./dying-source.ts";
import { MortalDomain, type Owner } from "./mortal-domain.ts";

const OWNERS: readonly Owner[] = ["engine", "qemu"];
const ACTS = ["pause", "reset", "stop"] as const;

interface Cell {
  readonly owner: Owner;
  readonly act: (typeof ACTS)[number];
  readonly death: Death;
}

const cells = (death: Death): Cell[] => OWNERS.flatMap((owner) => ACTS.map((act) => ({ owner, act, death })));
const PARAMS = { params: { domain: "vm" } };

async function start(t: TestContext, owner: Owner, policy: string, death = KILLED): Promise<MortalDomain> {
  const random = rng(`${t.name}`);
  return MortalDomain.start(t, { owner, policy, death, random, rerror: "stop" });
}

async function run(t: TestContext, { owner, act, death }: Cell): Promise<void> {
  const vm = await start(t, owner, "hold", death);
  const { client } = vm.daemon;
  await vm.source.die();
  const read = vm.readMissing();
  read.catch(() => {});
  await vm.until(async () => (await vm.held()) > 0, "held");
  if (act === "pause") {
    const { pause, state } = await client.call("pauseDomain", PARAMS);
    assert.deepEqual([state, pause?.code, pause?.byUser], ["io-error", "paused", true]);
    await vm.source.revive();
    await vm.until(async () => (await vm.sourceState()) === "ok", "a source that is back");
    await sleep(1500);
    assert.equal((await vm.show()).pause?.code, "paused", "nobody else lets it go on");
    const { state: after } = await client.call("resumeDomain", PARAMS);
    assert.equal(after, "running");
    assert.equal(await read, true);
  } else if (act === "reset") {
    const { state } = await client.call("resetDomain", PARAMS);
    assert.equal(state, "running");
    // It may need something to boot from. Its answer to what was asked for before is that it has begun anew.
    await vm.source.revive();
    assert.equal(await read, false);
    assert.equal(await vm.readMissing(), true);
  } else {
    vm.stopAsking();
    await client.call("stopDomain", { ...PARAMS, body: { force: true } });
    await vm.guest.ended;
    assert.equal((await vm.show()).state, "unreachable");
    await vm.source.revive();
    await vm.compare();
    return;
  }
  assert.doesNotMatch(vm.guest.log, /I\/O error/);
  t.diagnostic(`QEMU answered within ${await vm.answered()} ms throughout`);
  await vm.verify();
}

// A source that is frozen takes its time.
for (const cell of [...sample("domain-commands", cells(KILLED), 1), ...(full ? cells(FROZEN_LONG) : [])]) {
  const { owner, act, death } = cell;
  test(`${act} of a guest on a disk of ${owner}'s, held by a source that is ${death.name}`, (t) => run(t, cell));
}

/** The daemon dies while the guest is paused, and it is known why when it is back; a person's pause too. */
async function restart(t: TestContext, owner: Owner): Promise<void> {
  const vm = await start(t, owner, "hold:200ms,pause");
  const { daemon } = vm;
  await vm.source.die();
  const read = vm.readMissing();
  read.catch(() => {});
  await vm.until(({ pause }) => pause?.code === "source-lost", "paused");
  await daemon.stop("SIGKILL");
  await daemon.start();
  await vm.until(({ pause }) => pause?.code === "source-lost", "marked again");
  await daemon.client.call("pauseDomain", PARAMS);
  await daemon.stop("SIGKILL");
  await daemon.start();
  await vm.source.revive();
  await vm.until(({ pause }) => pause?.code === "paused", "remembered");
  await vm.until(async () => (await vm.sourceState()) === "ok", "a source that is back");
  await sleep(2000);
  assert.equal((await vm.show()).pause?.code, "paused", "nobody else lets it go on");
  await daemon.client.call("resumeDomain", PARAMS);
  assert.equal(await read, true);
  assert.doesNotMatch(vm.guest.log, /I\/O error/);
  await vm.verify();
}

/** It goes on by itself when its source is back, each time, and that is told once. */
async function goOn(t: TestContext, owner: Owner): Promise<void> {
  const vm = await start(t, owner, "hold:100ms,pause");
  const rounds = pick(1, 20);
  const count = async (type: string): Promise<number> => {
    const { events } = await vm.daemon.client.call("listEvents", { query: { limit: 1000 } });
    return events.filter((event) => event.type === type).length;
  };
  for (let round = 0; round < rounds; round++) {
    await vm.source.die();
    const read = vm.readMissing();
    read.catch(() => {});
    await vm.until(({ pause }) => pause?.code === "source-lost", "paused");
    await vm.source.revive();
    assert.equal(await read, true);
    await vm.until(async () => (await count("domain-resumed")) > round, "told of");
  }
  assert.deepEqual([await count("domain-paused"), await count("domain-resumed")], [rounds, rounds]);
  assert.doesNotMatch(vm.guest.log, /I\/O error/);
  await vm.verify();
}

/** More requests than may be held: QEMU stops the machine for those beyond, and would wait for the others. */
async function crowd(t: TestContext, owner: Owner): Promise<void> {
  const vm = await start(t, owner, "hold");
  await vm.source.die();
  // From 16 MiB on, 64 KiB apart.
  const reads = vm.guest.does("many 4096 16");
  reads.catch(() => {});
  const { state } = await vm.until(({ pause }) => pause?.code === "source-lost", "paused");
  assert.deepEqual([state, await vm.held()], ["io-error", 0]);
  await vm.source.revive();
  assert.equal(await reads, "12");
  assert.doesNotMatch(vm.guest.log, /I\/O error/);
  t.diagnostic(`QEMU answered within ${await vm.answered()} ms throughout`);
  await vm.verify();
}

/** The guest powers itself off when it is told to. */
async function powerOff(t: TestContext, owner: Owner): Promise<void> {
  const vm = await start(t, owner, "hold");
  vm.stopAsking();
  const off = vm.poweredDown();
  const stopped = vm.daemon.client.call("stopDomain", { ...PARAMS, body: {} });
  await off;
  await vm.guest.powerOff();
  assert.equal((await stopped).state, "unreachable");
  await vm.compare();
}

/** QEMU has its source itself: that is asked whether it is back. */
async function elsewhere(t: TestContext): Promise<void> {
  const vm = await start(t, "elsewhere", "hold");
  await vm.source.die();
  const read = vm.readMissing();
  read.catch(() => {});
  const { pause } = await vm.until(({ pause }) => pause?.code === "io", "paused");
  assert.equal(pause?.source, vm.source.uri);
  await vm.source.revive();
  assert.equal(await read, true);
  assert.doesNotMatch(vm.guest.log, /I\/O error/);
  await vm.verify();
}

/** QEMU has its source itself, which has died for good: it goes on with another, of which nobody could say that it is back. */
async function replaced(t: TestContext): Promise<void> {
  const vm = await start(t, "elsewhere", "hold");
  await vm.source.die();
  const read = vm.readMissing();
  read.catch(() => {});
  await vm.until(({ pause }) => pause?.code === "io", "paused");
  const { daemon } = vm;
  const moved = join(daemon.images, "moved.raw");
  writeFileSync(moved, halfNoise(vm.model.length));
  const body = { backing: moved, backingFormat: "raw", force: false } as const;
  await daemon.client.call("replaceDomainSource", { params: { domain: "vm", device: "vda" }, body });
  assert.equal(await read, true);
  assert.equal((await vm.show()).pause, undefined);
  assert.doesNotMatch(vm.guest.log, /I\/O error/);
  await vm.verify();
}

const STORIES = OWNERS.flatMap((owner) => [
  { owner, what: "is paused when the daemon is killed", tell: restart },
  { owner, what: "goes on by itself, each time", tell: goOn },
  { owner, what: "wants more than may be held", tell: crowd },
  { owner, what: "powers itself off when it is told to", tell: powerOff },
]);

STORIES.push(
  { owner: "elsewhere", what: "goes on when the source that its QEMU has answers", tell: elsewhere },
  { owner: "elsewhere", what: "goes on when the source that its QEMU has is replaced by a file", tell: replaced },
);

for (const { owner, what, tell } of sample("domain-stories", STORIES, 1)) {
  test(`a guest on a disk of ${owner}'s ${what}`, (t) => tell(t, owner));
}
