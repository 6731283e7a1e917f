import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { MemoryStore } from "../../test/support/memory-store.ts";
import { StreamdiskError } from "../errors/index.ts";
import { Domains, type DomainsParts } from "./domains.ts";

const [VDA, VDB] = ["web:vda@1", "web:vdb@1"] as const;

/** A domain that nobody runs, with jobs on two of its disks: both are over when one is cancelled. */
async function removable(t: TestContext) {
  const jobs = new Set<string>([VDA, VDB]);
  const told: string[] = [];
  const runner = {
    disks: [...jobs],
    active: (id: string) => (jobs.has(id) ? {} : undefined),
    cancel: async (id: string) => {
      if (!jobs.has(id)) throw new StreamdiskError("not-found", `'${id}' has no stream under way`);
      told.push(`cancelled ${id}`);
      jobs.clear();
    },
  };
  const parts = {
    ...{ store: new MemoryStore(), runner },
    events: { tell: async (type: string) => void told.push(type) },
    needs: { hold: () => {}, release: async () => {} },
    guards: { begin: () => {}, end: async () => {} },
  };
  const domains = new Domains(parts as unknown as DomainsParts);
  t.after(() => domains.close());
  await domains.define({ id: "1", name: "web", qmp: "/none", createdAt: 0 });
  return { domains, told };
}

test("a stream that comes to its end while another is cancelled holds up no removal", async (t) => {
  const { domains, told } = await removable(t);
  assert.equal(await domains.remove("web"), true);
  assert.deepEqual([told, domains.all()], [[`cancelled ${VDA}`, "domain-removed"], []]);
});

test("of two removals at once one removes, and is told of", async (t) => {
  const { domains, told } = await removable(t);
  assert.deepEqual(await Promise.all([domains.remove("web"), domains.remove("web")]), [true, false]);
  assert.equal(told.filter((what) => what === "domain-removed").length, 1);
});

test("a removal that is refused changes nothing", async (t) => {
  const { domains, told } = await removable(t);
  const refuse = (): never => {
    throw new StreamdiskError("in-use", "It runs");
  };
  await assert.rejects(domains.remove("web", refuse), { code: "in-use" });
  assert.deepEqual([told, domains.all().length], [[], 1]);
});
