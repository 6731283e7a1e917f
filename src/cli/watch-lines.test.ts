import assert from "node:assert/strict";
import { test } from "node:test";
import { DISK, JOB } from "../../test/support/fake-service.ts";
import type { Disk, NbdClient } from "../api/index.ts";
import { clientsTable, latency } from "./client-lines.ts";
import { statusLine, topLines, watchLines } from "./watch-lines.ts";

const NOW = Date.UTC(2026, 0, 2, 3, 4, 5);
const LOAD: NonNullable<Disk["load"]> = {
  at: NOW,
  reads: 12,
  writes: 3,
  readBytes: 49_152,
  writtenBytes: 1536,
  fetchedBytes: 1024,
  streamedBytes: 0,
  readP50Us: 80,
  readP99Us: 3100,
  writeP99Us: 2_500_000,
};
const times = { totalUs: 45, p50Us: 8, p90Us: 20, p99Us: 30 };
const CLIENT: NbdClient = {
  peer: "192.0.2.7:1234",
  tls: true,
  since: NOW,
  inFlight: 2,
  reads: 5,
  writes: 0,
  flushes: 1,
  other: 0,
  errors: 1,
  readBytes: 20_480,
  writtenBytes: 0,
  readLatency: times,
  writeLatency: { ...times, p99Us: 0 },
};

test("a disk that waits for its source says why, and what would be missing", () => {
  const reason = { code: "source-lost", message: "the source is away" };
  const source = { state: "lost" as const, message: "no answer", held: 3 };
  const disk: Disk = {
    ...DISK,
    backing: "https://a/b",
    source,
    load: LOAD,
    stream: { ...JOB, state: "waiting", reason },
  };
  const event = { id: 1, time: NOW, type: "source-lost" as const, message: "It is lost" };
  const text = watchLines({ disk, clients: [CLIENT], events: [event] }).join("\n");
  for (const part of [
    "vm1: source lost",
    /^[█░#.]{30} {3}2% {2}24 B of 1 KiB {2}10 B\/s$/m,
    "why: the source is away",
    "source: https://a/b, lost (no answer)",
    "requests that wait for it: 3",
    "if the source died now: 0.977 KiB would be missing; a read of that would get: hold",
    "guests: 12 reads/s, 48 KiB/s (p50 80 us, p99 3.1 ms); 3 writes/s, 1.5 KiB/s (p99 2.5 s); 1 KiB/s of that from the source",
    "192.0.2.7:1234 (TLS)",
    "2026-01-02 03:04:05  source-lost      It is lost",
  ]) {
    assert.ok(typeof part === "string" ? text.includes(part) : part.test(text), `${part} in ${text}`);
  }
  assert.match(statusLine(disk), /^vm1: source lost; 2% {2}24 B of 1 KiB.*; guests: 12 reads/);
});

test("a disk that stands alone, and one that is not open, say so", () => {
  const { missingBytes: _, length: __, source: ___, ...closed } = DISK;
  const alone = watchLines({ disk: { ...DISK, hydrated: true, missingBytes: 0 }, clients: [], events: [] });
  assert.ok(alone.includes("if the source died now: nothing would be lost"));
  assert.ok(alone.includes("Nobody is connected"));
  const failed: Disk = { ...closed, state: "failed", error: { code: "io", message: "no such file" } };
  const lines = watchLines({ disk: failed, clients: [], events: [] });
  assert.deepEqual(lines.slice(0, 2), ["vm1: failed", "error: no such file"]);
  assert.ok(lines.includes("if the source died now: not known while the disk is not open"));
});

test("of all disks those come first that need somebody, then what is streamed, then what is busy", () => {
  const { stream: _, ...served } = { ...DISK, source: { state: "ok" as const, held: 0 } };
  const disks: Disk[] = [
    { ...served, name: "idle" },
    { ...served, name: "busy", load: LOAD },
    { ...served, name: "streamed", stream: { ...JOB, etaSeconds: 100 } },
    { ...served, name: "lost", source: { state: "lost", held: 0 } },
  ];
  const daemon = { version: "0", node: "v24", startedAt: 1, disks: 4, streams: 1, maxStreams: 4, imageDirectory: "/i" };
  const [title, head, ...rows] = topLines(daemon, disks, NOW);
  assert.equal(title, "2026-01-02 03:04:05  4 disks, 1 of 4 streams, 3.91 KiB missing");
  assert.match(head ?? "", /^DISK +STATE .*WRITTEN\/s {2}P99$/);
  assert.deepEqual(
    rows.map((row) => row.split(" ")[0]),
    ["lost", "streamed", "busy", "idle"],
  );
  assert.match(rows[1] ?? "", /1 min 40 s/);
  assert.match(rows[2] ?? "", /12 +48 KiB +3.1 ms +3 +1.5 KiB +2.5 s$/);
});

test("a client is a row, and nobody a sentence", () => {
  assert.deepEqual(clientsTable([]), ["Nobody is connected"]);
  const [, row] = clientsTable([CLIENT]);
  assert.match(row ?? "", /^192\.0\.2\.7:1234 \(TLS\) +2026-01-02 03:04:05 +2 +5 +20 KiB +8 us +30 us +0 +0 B +- +1$/);
});

test("times are said in the unit that suits them", () => {
  assert.deepEqual([0, 1, 999, 1000, 12_345, 999_999, 61_000_000].map(latency), [
    "-",
    "1 us",
    "999 us",
    "1 ms",
    "12 ms",
    "1000 ms",
    "61 s",
  ]);
});
