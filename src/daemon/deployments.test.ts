import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { aDeployment } from "../../test/support/store-conformance.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DeploymentRecord, EventType, Store } from "../jobs/index.ts";
import { type DeploymentStep, Deployments } from "./deployments.ts";

const STEPS = ["source", "disk", "machine", "stream"];

/** A world of things that steps make, in which things go wrong as a test says. */
function makeWorld(store: Store = new MemoryStore()) {
  const things = new Set<string>();
  const log: string[] = [];
  const told: EventType[] = [];
  const messages: string[] = [];
  const nothing = async (_what: string): Promise<void> => {};
  const world = { things, log, told, messages, store, before: nothing, refuse: nothing };
  const step = (name: string): DeploymentStep => ({
    name,
    make: async (deployment) => {
      log.push(`make ${name}`);
      // It may fail before, or after something was done.
      await world.before(`make ${name}`);
      things.add(`${deployment.name} ${name}`);
      await world.before(`made ${name}`);
    },
    undo: async (deployment) => {
      log.push(`undo ${name}`);
      await world.before(`undo ${name}`);
      if (deployment.keepDisk !== true || name !== "disk") things.delete(`${deployment.name} ${name}`);
    },
  });
  const steps = STEPS.map(step);
  const events = {
    tell: async (type: EventType, message: string) => {
      told.push(type);
      messages.push(message);
    },
  };
  const refuseDeleting = ({ name }: DeploymentRecord): Promise<void> => world.refuse(name);
  const deployments = new Deployments({ store, events, stepsOf: () => steps, refuseDeleting });
  return Object.assign(world, { deployments });
}

async function stored({ store }: { readonly store: Store }): Promise<readonly DeploymentRecord[]> {
  return store.deployments();
}

const UNDONE = [...STEPS].reverse().map((name) => `undo ${name}`);

test("steps are done in order, each written down, and undone the other way round", async () => {
  const world = makeWorld();
  const seen: (readonly string[])[] = [];
  world.before = async () => {
    const [record] = await stored(world);
    assert.equal(record?.state, "making");
    seen.push(record.steps.map(({ name }) => name));
  };
  const { record } = await world.deployments.make(aDeployment("vm1"));
  assert.equal(record.state, "ready");
  assert.deepEqual(
    record.steps.map(({ name }) => name),
    STEPS,
  );
  assert.deepEqual(
    seen.filter((_, index) => index % 2 === 0),
    [[], ["source"], ["source", "disk"], STEPS.slice(0, 3)],
  );
  assert.deepEqual(await stored(world), [record]);
  world.before = async () => assert.equal((await stored(world))[0]?.state, "removing");
  world.log.length = 0;
  await world.deployments.remove("vm1", { keepDisk: false, force: false });
  assert.deepEqual(world.log, UNDONE);
  assert.deepEqual([await stored(world), [...world.things]], [[], []]);
  assert.throws(() => world.deployments.demand("vm1"), { code: "not-found" });
  assert.deepEqual(world.told, ["deployed", "undeployed"]);
});

for (const name of STEPS) {
  for (const when of ["make", "made"]) {
    test(`nothing is left when '${name}' fails ${when === "make" ? "before" : "after"} it has done something`, async () => {
      const world = makeWorld();
      world.before = async (what) => {
        if (what === `${when} ${name}`) throw new StreamdiskError("no-space", "It is full");
      };
      const made = world.deployments.make(aDeployment("vm1"));
      await assert.rejects(made, { code: "no-space", message: /'vm1' could not be deployed.*It is full/ });
      assert.deepEqual(world.log.slice(-4), UNDONE);
      assert.deepEqual([await stored(world), [...world.things], world.deployments.all()], [[], [], []]);
      world.before = async () => {};
      await world.deployments.make(aDeployment("vm1"));
    });

    test(`a daemon that dies ${when === "make" ? "before" : "after"} '${name}' undoes all when it comes back`, async () => {
      const world = makeWorld();
      const died = new Promise<void>((resolve) => {
        world.before = (what) => (what === `${when} ${name}` ? new Promise(() => resolve()) : Promise.resolve());
      });
      void world.deployments.make(aDeployment("vm1"));
      await died;
      const next = makeWorld(world.store);
      for (const thing of world.things) next.things.add(thing);
      next.deployments.load(await stored(world));
      await assert.rejects(next.deployments.make(aDeployment("vm1")), { code: "exists" });
      await next.deployments.finish();
      assert.deepEqual([await stored(world), [...next.things], next.told], [[], [], ["undeployed"]]);
    });
  }

  test(`a removal that fails or dies at '${name}' is finished later, as it was ordered`, async () => {
    const world = makeWorld();
    await world.deployments.make(aDeployment("vm1"));
    world.before = async (what) => {
      if (what === `undo ${name}`) throw new StreamdiskError("io", "It is stuck");
    };
    const removed = world.deployments.remove("vm1", { keepDisk: true, force: false });
    await assert.rejects(removed, { code: "io", message: "It is stuck" });
    const next = makeWorld(world.store);
    for (const thing of world.things) next.things.add(thing);
    next.deployments.load(await stored(world));
    await next.deployments.finish();
    assert.deepEqual([await stored(world), [...next.things]], [[], ["vm1 disk"]]);
  });
}

test("a disk that was to stay stays, whoever goes on with a removal that is stuck", async () => {
  const world = makeWorld();
  await world.deployments.make(aDeployment("vm1"));
  await world.deployments.make(aDeployment("vm2"));
  world.before = async (what) => {
    if (what === "undo source") throw new StreamdiskError("source-lost", "It is away");
  };
  for (const [name, keepDisk] of [["vm1", true] as const, ["vm2", false] as const]) {
    const removed = world.deployments.remove(name, { keepDisk, force: false });
    await assert.rejects(removed, { code: "source-lost" });
  }
  await world.deployments.finish();
  assert.deepEqual(world.told.slice(2), ["undeploy-failed", "undeploy-failed"]);
  assert.match(world.messages[2] ?? "", /by 'streamdisk undeploy vm1 --keep-disk'$/);
  assert.match(world.messages[3] ?? "", /by 'streamdisk undeploy vm2'$/);
  world.before = async () => {};
  await world.deployments.remove("vm1", { keepDisk: false, force: false });
  await world.deployments.remove("vm2", { keepDisk: true, force: false });
  assert.deepEqual([await stored(world), [...world.things]], [[], ["vm1 disk"]]);
  assert.match(world.messages[4] ?? "", /'\/images\/vm1\.qcow2' stays$/);
});

test("a removal that would take others' base away does nothing at all", async () => {
  const world = makeWorld();
  const { record } = await world.deployments.make(aDeployment("vm1"));
  world.refuse = async (name) => {
    throw new StreamdiskError("refused", `Others lie over '${name}'`);
  };
  world.log.length = 0;
  const removed = world.deployments.remove("vm1", { keepDisk: false, force: false });
  await assert.rejects(removed, { code: "refused", message: "Others lie over 'vm1'" });
  assert.deepEqual([await stored(world), world.log, world.things.size], [[record], [], STEPS.length]);
  await world.deployments.remove("vm1", { keepDisk: true, force: false });
  assert.deepEqual([await stored(world), [...world.things]], [[], ["vm1 disk"]]);
});

test("what cannot be undone is told of, and tried again", async () => {
  const world = makeWorld();
  world.before = async (what) => {
    if (what === "make stream" || what === "undo disk") throw new StreamdiskError("io", `No ${what}`);
  };
  await assert.rejects(world.deployments.make(aDeployment("vm1")), { code: "io", message: /No make stream/ });
  assert.deepEqual(world.told, ["undeploy-failed"]);
  assert.deepEqual([...world.things], ["vm1 source", "vm1 disk"]);
  await assert.rejects(world.deployments.make(aDeployment("vm1")), { code: "exists" });
  world.before = async () => {};
  await world.deployments.remove("vm1", { keepDisk: false, force: true });
  assert.deepEqual([await stored(world), [...world.things]], [[], []]);
});

test("a source is needed by those that are filled from it, from before they are until they are complete or gone", async () => {
  const world = makeWorld();
  const { deployments } = world;
  world.before = async () => assert.ok(deployments.needs("image-debian"));
  const first = await deployments.make(aDeployment("vm1"));
  await deployments.make(aDeployment("vm2"));
  world.before = async () => {};
  assert.ok(deployments.needs("image-debian", "vm1"));
  await deployments.hydrated(first);
  assert.equal((await stored(world))[0]?.hydrated, true);
  assert.ok(!deployments.needs("image-debian", "vm2"));
  await deployments.remove("vm2", { keepDisk: false, force: false });
  assert.ok(!deployments.needs("image-debian"));
});

test("acts upon one come one at a time", async () => {
  const world = makeWorld();
  const { deployments, log } = world;
  const made = deployments.make(aDeployment("vm1"));
  const removed = deployments.remove("vm1", { keepDisk: false, force: false });
  const again = deployments.remove("vm1", { keepDisk: false, force: false });
  await Promise.all([made, removed, again]);
  assert.deepEqual(log, [...STEPS.map((name) => `make ${name}`), ...UNDONE]);
});
