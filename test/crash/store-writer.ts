/**
 * Writes to the store of the state directory that it is told, for as long as it is let, and prints each write as a line of JSON when
 * it was acknowledged. An error ends it, as a last line.
 */
import { writeSync } from "node:fs";
import { SqliteStore } from "../../src/daemon/sqlite-store.ts";
import { openStateDirectory } from "../../src/daemon/state-directory.ts";
import type { DiskRecord, EventRecord, JobRecord } from "../../src/jobs/index.ts";
import { aDisk, aJob, anEvent } from "../support/store-conformance.ts";

export type Line =
  | { readonly event: EventRecord }
  | { readonly job: JobRecord }
  | { readonly disk: DiskRecord }
  | { readonly error: { readonly code?: string; readonly message: string } };

const [path = "", first = "0"] = process.argv.slice(2);
const DISKS = 50;
const JOBS = 5;

function say(line: Line): void {
  writeSync(1, `${JSON.stringify(line)}\n`);
}

try {
  using directory = openStateDirectory(path);
  await using store = new SqliteStore(directory);
  // Each number goes into one record of each kind, so that a record tells when it was written.
  for (let number = Number(first); ; number++) {
    say({ event: await store.addEvent({ ...anEvent(), time: number }, aJob("told", "1", { copiedBytes: number })) });
    const job = aJob(`job-${number % JOBS}`, "1", { copiedBytes: number });
    await store.putJob(job);
    say({ job });
    const disk = { ...aDisk(`${number % DISKS}`, `disk-${number % DISKS}`), createdAt: number };
    await store.putDisk(disk);
    say({ disk });
  }
} catch (error) {
  const { code, message } = error as { code?: string; message: string };
  say({ error: { ...(code !== undefined && { code }), message } });
}
