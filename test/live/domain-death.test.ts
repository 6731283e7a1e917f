/** A guest's source dies, in each way and by each policy, and comes back. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { full, rng, sample } from "../support/seed.ts";
import { type Death, FROZEN_LONG, KILLED, NBD_DEATHS } from "./dying-source.ts";
import { MortalDomain, type Owner } from "./mortal-domain.ts";

interface Cell {
  readonly owner: Owner;
  readonly policy: string;
  readonly death: Death;
}

const OWNERS: readonly Owner[] = ["engine", "qemu"];
const POLICIES = ["hold", "hold:1500ms,pause", "hold:500ms,error", "error"];
const REFUSING = NBD_DEATHS.find(({ name }) => name === "refusing") ?? KILLED;
const cells = (...deaths: readonly Death[]): Cell[] =>
  OWNERS.flatMap((owner) => POLICIES.flatMap((policy) => deaths.map((death) => ({ owner, policy, death }))));

async function run(t: TestContext, { owner, policy, death }: Cell): Promise<void> {
  const random = rng(`domain-death ${owner} ${policy} ${death.name}`);
  const errors = policy.endsWith("error");
  const rerror = errors ? "report" : "stop";
  const vm = await MortalDomain.start(t, { owner, policy, death, random, rerror });
  const pause = vm.setPolicy("hold:1h,pause");
  if (errors) {
    const message = /'vm:vda' was started without rerror=stop: its machine can't be paused/;
    await assert.rejects(pause, { code: "refused", message });
  } else {
    await pause;
    await vm.setPolicy(policy);
  }
  await vm.source.die();
  const read = vm.readMissing();
  read.catch(() => {});
  if (errors) {
    assert.equal(await read, false);
    assert.match(vm.guest.log, /I\/O error/);
    assert.equal((await vm.show()).state, "running");
    await vm.source.revive();
    await vm.until(async () => await vm.readMissing(), "readable again");
  } else if (policy === "hold") {
    await vm.until(async () => (await vm.held()) > 0, "held");
    assert.equal((await vm.show()).state, "running");
    await vm.source.revive();
    assert.equal(await read, true);
  } else {
    const { pause, state } = await vm.until(({ pause }) => pause !== undefined, "paused");
    assert.deepEqual([state, pause?.code, pause?.disk, pause?.byUser], ["io-error", "source-lost", "vm:vda", false]);
    assert.match(pause?.reason ?? "", /is lost: .*goes on by itself/);
    await vm.source.revive();
    assert.equal(await read, true);
    await vm.until(({ state, pause }) => state === "running" && pause === undefined, "running again");
  }
  if (!errors) assert.doesNotMatch(vm.guest.log, /I\/O error/);
  t.diagnostic(`QEMU answered within ${await vm.answered()} ms throughout`);
  await vm.verify();
}

/** What takes its time. */
const LONG: readonly Cell[] = [...cells(FROZEN_LONG), { owner: "engine", policy: "pause", death: KILLED }];

for (const cell of [...sample("domain-death", cells(KILLED, REFUSING), 1), ...(full ? LONG : [])]) {
  const { owner, policy, death } = cell;
  test(`a guest on a disk of ${owner}'s whose source is ${death.name}: ${policy}`, (t) => run(t, cell));
}
