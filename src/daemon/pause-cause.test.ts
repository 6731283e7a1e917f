import assert from "node:assert/strict";
import { test } from "node:test";
import type { SourceState } from "../engine/index.ts";
import { causeOf, type DriveNow } from "./pause-cause.ts";
import type { ServedSource } from "./served-sources.ts";

function served(from: string, state: SourceState["state"] | "closed" = "ok"): ServedSource {
  const open = state === "closed" ? { served: undefined, error: new Error("no") } : { served: {} };
  const host = { ...open, source: { state, message: "gone", held: 0 } } as unknown as ServedSource["host"];
  const policy = () => ({ holdMs: 0, afterwards: "pause" }) as const;
  return { name: "disk d", host, address: { kind: "unix", path: "/s" }, exportName: "", from, policy };
}

function drive(name: string, more: Partial<DriveNow> = {}): DriveNow {
  return {
    ...{ name, sources: [`/images/${name}`], nodes: [name], image: `/images/${name}`, status: "ok" },
    ...{ stopsOnErrors: "yes", served: [], ...more },
  };
}

const FAILURE = { node: "vdb", device: "", reason: "Input/output error" };

test("a source of this daemon that is lost is what is waited for, and named", () => {
  const drives = [drive("vda"), drive("vdb", { served: [served("nbd://far/", "lost")] })];
  const { what, ...cause } = causeOf(drives, FAILURE, undefined);
  assert.deepEqual(cause, { code: "source-lost", disk: "vdb", source: "nbd://far/", awaits: "source" });
  assert.equal(what, "its source 'nbd://far/' is lost: gone");
});

test("what QEMU says of its drives counts for more than what was heard, and a full file system for most", () => {
  const lost = drive("vdb", { served: [served("nbd://far/", "lost")] });
  const full = drive("vda", { status: "nospace" });
  const { code, disk, awaits } = causeOf([full, lost], FAILURE, undefined);
  assert.deepEqual([code, disk, awaits], ["no-space", "vda", "person"]);
});

test("one that is not served, that has changed, that was lost and is back", () => {
  const of = (source: ServedSource, lately?: ServedSource) => {
    const { code, awaits } = causeOf([drive("vda", { status: "failed", served: [source] })], undefined, lately);
    return [code, awaits];
  };
  assert.deepEqual(of(served("x", "closed")), ["source-lost", "source"]);
  assert.deepEqual(of(served("x", "changed")), ["changed", "source"]);
  const back = served("x");
  assert.deepEqual(of(back, back), ["source-lost", "nobody"]);
  assert.deepEqual(of(back), ["io", "nobody"]);
});

test("what this daemon does not serve is asked for, or left to a person", () => {
  const failing = (source: string) => {
    const cause = causeOf([drive("vda", { status: "failed", sources: [source] })], FAILURE, undefined);
    return [cause.code, cause.source, cause.awaits];
  };
  assert.deepEqual(failing("nbd+unix:///?socket=/run/x"), ["io", "nbd+unix:///?socket=/run/x", "elsewhere"]);
  assert.deepEqual(failing("https://host/x"), ["io", "https://host/x", "elsewhere"]);
  assert.deepEqual(failing("/images/base.raw"), ["io", undefined, "person"]);
});
