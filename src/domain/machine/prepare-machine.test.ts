import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultMachine, hostArchitecture } from "./machine-spec.ts";
import { prepareMachine } from "./prepare-machine.ts";

test("a machine of another processor than the host's is emulated, whatever the host can", async () => {
  const other = hostArchitecture() === "x86_64" ? "aarch64" : "x86_64";
  const machine = defaultMachine({ name: "web" }, other);
  for (const accelerator of [undefined, "tcg", "kvm"] as const) {
    const prepared = await prepareMachine(machine, { emulator: "/q", accelerator });
    assert.equal(prepared.accelerator, "tcg");
  }
  const asks = prepareMachine({ ...machine, accelerator: "kvm" }, { emulator: "/q" });
  await assert.rejects(asks, { code: "unsupported", message: /which runs no .* on this host/ });
});
