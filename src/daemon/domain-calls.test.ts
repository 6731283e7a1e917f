import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { FakeMachine } from "../../test/support/fake-machine.ts";
import type { ReplaceSourceOptions } from "../domain/index.ts";
import { DomainCalls, type DomainCallsParts } from "./domain-calls.ts";

const MOVED = "/images/moved.raw";

/** A machine whose source has died, and the calls that are about it. Nobody knows of the new source whether it answers. */
async function stopped(t: TestContext, source: string): Promise<{ machine: FakeMachine; calls: DomainCalls }> {
  const machine = await FakeMachine.start(t, { state: "io-error", source });
  machine.guards.begin(machine.held);
  const { held, guards, parts } = machine;
  const calls = new DomainCalls({
    ...{ guards, events: parts.events, options: {}, machines: parts.machines(), streamOf: async () => undefined },
    allowed: { source: async (named: string) => named, backing: [] },
    domains: {
      aside: (_name: string, _why: string, act: (disk: object) => Promise<unknown>) => act({ held, target: "vda" }),
      describe: async () => held.running.description,
      disk: async () => ({ id: "1", target: "vda", held }),
    },
  } as unknown as DomainCallsParts);
  return { machine, calls };
}

const REPLACE = {
  params: { domain: "vm", device: "vda" },
  query: {},
  body: { backing: MOVED, force: false },
} as const;

test("a machine that an error has stopped goes on when its source is replaced, whatever that is", async (t) => {
  const { machine, calls } = await stopped(t, MOVED);
  machine.held.running.replaceSource = async () => ({ compared: 1, warnings: [] });
  await calls.replaceSource(REPLACE);
  assert.deepEqual(machine.story, ["cont", "RESUME"]);
});

test("a machine that a person pauses while its source is replaced stays paused", async (t) => {
  const { machine, calls } = await stopped(t, MOVED);
  const { held, control } = machine;
  held.running.replaceSource = async (_name: string, { goOn = true }: ReplaceSourceOptions) => {
    await control.pause();
    if (goOn) await held.running.qmp.execute("cont", {});
    return { compared: 1, warnings: [] };
  };
  await calls.replaceSource(REPLACE);
  await machine.guard.see();
  assert.deepEqual([machine.state, machine.guard.pause?.code, held.record.pausedByUser], ["io-error", "paused", true]);
});
