import assert from "node:assert/strict";
import { test } from "node:test";
import { JOB } from "../../test/support/fake-service.ts";
import type { Domain } from "../api/index.ts";
import { domainStatusLine, domainTopLines, domainWatchLines } from "./domain-watch.ts";

const RUNNING = { ...JOB, state: "running" as const, length: 2048, missingBytes: 1024, rate: 512, etaSeconds: 2 };
const DISK = {
  name: "web:vda",
  target: "vda",
  device: "disk",
  image: "/vda.qcow2",
  format: "qcow2",
  backing: "nbd://a/",
};
const DOMAIN: Domain = { name: "web", state: "io-error", disks: [{ ...DISK, stream: RUNNING }], createdAt: 1 };
const EVENT = { id: 1, time: 0, type: "source-lost" as const, message: "It is lost" };

test("a domain's disk at a glance", () => {
  const [disk] = DOMAIN.disks;
  const watched = { domain: DOMAIN, disk: disk!, events: [EVENT] };
  const text = domainWatchLines(watched).join("\n");
  assert.match(text, /^web:vda: machine io-error, stream running$/m);
  assert.match(text, / 50% {2}1 KiB of 2 KiB {2}512 B\/s {2}2 s left$/m);
  for (const part of ["image: /vda.qcow2 (qcow2)", "source: nbd://a/", "It is lost"])
    assert.ok(text.includes(part), text);
  assert.equal(
    domainStatusLine(watched),
    "web:vda: machine io-error, stream running; 50%  1 KiB of 2 KiB  512 B/s  2 s left",
  );
  assert.equal(domainStatusLine({ ...watched, disk: DISK }), "web:vda: machine io-error, no stream yet");
});

test("what is still to be done for machines", () => {
  assert.match(domainTopLines([DOMAIN]).join("\n"), /^web:vda +io-error +running +50% +1 KiB +2 s +512 B\/s$/m);
  const ended = { ...RUNNING, state: "completed" as const };
  assert.deepEqual(domainTopLines([{ ...DOMAIN, disks: [DISK, { ...DISK, stream: ended }] }]), []);
});
