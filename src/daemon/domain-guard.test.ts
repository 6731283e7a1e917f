import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { FakeMachine } from "../../test/support/fake-machine.ts";
import { until } from "../../test/support/until.ts";
import type { DomainRecord, MachineRecord } from "../jobs/index.ts";
import { DomainGuard } from "./domain-guard.ts";
import type { ServedSource } from "./served-sources.ts";

const URI = "nbd+unix:///?socket=/run/none/base.sock";

/** A disk of the daemon's that holds a request until it is told to fail it. */
class Holding {
  held = 1;
  readonly source: ServedSource;

  constructor() {
    const failHeld = async (): Promise<void> => {
      this.held = 0;
    };
    const host = Object.assign(new EventEmitter(), {
      served: { failHeld, release: async () => {} },
      source: undefined,
    });
    this.source = {
      ...{ name: "disk base", host: host as unknown as ServedSource["host"], exportName: "", from: "nbd://far/" },
      ...{ address: { kind: "unix", path: "/run/none/base.sock" } },
      policy: () => ({ holdMs: Number.POSITIVE_INFINITY, afterwards: "error" }),
    };
  }
}

const OWN: Partial<DomainRecord> = { machine: { state: "running" } as MachineRecord, needs: [URI] };

test("a machine of the daemon's own that waits since before its start for what is held answers again", async (t) => {
  const holding = new Holding();
  const options = { source: URI, sources: [holding.source], timeoutMs: 200, record: OWN };
  const machine = await FakeMachine.start(t, options);
  machine.isSilent = () => holding.held > 0;
  machine.guards.begin(machine.held);
  await until(async () => machine.guard.drives.length > 0);
  assert.deepEqual(machine.guard.drives[0]?.served, [holding.source]);
});

test("of a machine of others that was not seen yet what is held fails only when it is reset or ended", async (t) => {
  const holding = new Holding();
  const { held, parts } = await FakeMachine.start(t, { sources: [holding.source], record: { needs: [URI] } });
  const guard = new DomainGuard(held, parts);
  await guard.withNothingHeld(async () => {});
  assert.equal(holding.held, 1, "its guest might see errors");
  await guard.withNothingHeld(async () => {}, { errors: true });
  assert.equal(holding.held, 0);
});
