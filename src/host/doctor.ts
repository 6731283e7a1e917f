/**
 * What works on this machine and in one directory of it, tried out and not guessed: the facts behind `streamdisk doctor`.
 *
 * The tries happen in a new directory of its own below the given one, which is removed afterwards.
 */
import { constants } from "node:fs";
import { type FileHandle, mkdtemp, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileSystemFacts } from "./file-system.ts";
import { fileRuns } from "./holes.ts";
import { findLogDirectory } from "./log-directory.ts";
import { nativeCalls, nativeProblem } from "./native.ts";
import { isByteLocked, lockByte } from "./ofd-locks.ts";
import { punchHole } from "./punch.ts";

/** One thing that was looked at. */
export interface HostFact {
  /** A few words: "image locks". */
  readonly name: string;
  readonly ok: boolean;
  /** What was found, as a clause. */
  readonly detail: string;
  /** What it costs that it is not so, and what to do. */
  readonly hint?: string;
}

/** The oldest Node.js that runs this (package.json, "engines"). */
const OLDEST_NODE: readonly [major: number, minor: number] = [22, 19];

const MIB = 1024 * 1024;
const PLENTY = 1024 * MIB;

/** Looks at this machine, and at the directory where images lie. */
export async function probeHost(directory: string): Promise<readonly HostFact[]> {
  return [nodeFact(), nativeFact(), ...(await directoryFacts(directory)), logFact()];
}

function nodeFact(): HostFact {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const ok = major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1]);
  const fact = { name: "Node.js", ok, detail: process.version };
  return ok ? fact : { ...fact, hint: `install Node.js ${OLDEST_NODE.join(".")} or later` };
}

function nativeFact(): HostFact {
  const name = "native calls";
  if (nativeCalls() !== undefined) return { name, ok: true, detail: "loaded" };
  const hint =
    "without them holes are read as data, discarded space is not given back and QEMU is not kept out: npm install koffi";
  return { name, ok: false, detail: nativeProblem(), hint };
}

function logFact(): HostFact {
  const name = "log of acknowledged writes";
  const found = findLogDirectory();
  if (typeof found !== "string") return { name, ok: true, detail: `in ${found.path}` };
  const hint = "without it each write that allocates waits for the image's metadata, which is slower and as safe";
  return { name, ok: false, detail: found, hint };
}

async function directoryFacts(directory: string): Promise<HostFact[]> {
  let place: string;
  try {
    place = await mkdtemp(join(directory, ".streamdisk-doctor-"));
  } catch (error) {
    const hint = "name a directory that this user may write to";
    return [{ name: "directory", ok: false, detail: reason(error), hint }];
  }
  try {
    const { freeBytes, remote } = await fileSystemFacts(place);
    const kind = remote === undefined ? "" : ` (${remote})`;
    const writable = { name: "directory", ok: true, detail: `'${directory}' is writable${kind}` };
    const path = join(place, "probe");
    const facts = [writable, spaceFact(freeBytes)];
    for (const [name, probe, hint] of PROBES) facts.push(await attempt(name, () => probe(path), hint));
    return facts;
  } finally {
    await rm(place, { recursive: true, force: true });
  }
}

function spaceFact(freeBytes: number): HostFact {
  const ok = freeBytes >= PLENTY;
  const fact = { name: "free space", ok, detail: `${Math.floor(freeBytes / MIB)} MiB` };
  return ok ? fact : { ...fact, hint: "an image that is filled in grows up to its whole size" };
}

type Probe = (path: string) => Promise<string | undefined>;

/** Each finds a fault, or undefined. */
const PROBES: readonly [name: string, probe: Probe, hint: string][] = [
  ["locking images", locksFault, "two programs can open one image for writing, and ruin it: see that they don't"],
  ["finding holes", holesFault, "empty parts of raw files are read and copied like data"],
  ["punching holes", punchFault, "space that a guest discards is not given back"],
];

async function attempt(name: string, probe: () => Promise<string | undefined>, hint: string): Promise<HostFact> {
  let fault: string | undefined;
  try {
    fault = nativeCalls() === undefined ? "needs the native calls" : await probe();
  } catch (error) {
    fault = reason(error);
  }
  return fault === undefined ? { name, ok: true, detail: "works here" } : { name, ok: false, detail: fault, hint };
}

async function locksFault(path: string): Promise<string | undefined> {
  return withFile(path, async (file) => {
    if (!lockByte(file.fd, 0)) return "a byte of a new file could not be locked";
    return withFile(path, async (other) =>
      isByteLocked(other.fd, 0) && !isByteLocked(file.fd, 0) ? undefined : "a lock is not seen by another descriptor",
    );
  });
}

async function holesFault(path: string): Promise<string | undefined> {
  return withFile(path, async (file) => {
    await file.truncate(4 * MIB);
    await file.write(Buffer.alloc(MIB, 1), 0, MIB, 2 * MIB);
    const runs = await fileRuns(file.fd, 0, 4 * MIB, { limit: 16, mayHang: false });
    return runs.some((run) => run.hole) ? undefined : "the file system does not tell where they are";
  });
}

async function punchFault(path: string): Promise<string | undefined> {
  return withFile(path, async (file) => {
    await file.write(Buffer.alloc(MIB, 1), 0, MIB, 0);
    await file.sync();
    const before = (await file.stat()).blocks;
    if (!(await punchHole(file.fd, 0, MIB))) return "the file system does not know how";
    return (await file.stat()).blocks < before ? undefined : "no space was given back";
  });
}

async function withFile<Result>(path: string, use: (file: FileHandle) => Promise<Result>): Promise<Result> {
  const file = await open(path, constants.O_RDWR | constants.O_CREAT);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
