/**
 * Looks at what a crash left: it must open, read as the model allows, have no corruption, and come out of a repair the same.
 * Every step works on a copy of its own.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CheckResult, MappedFormatNode, MappingRecord } from "../../src/formats/index.ts";
import { chance, type Random } from "../support/draw.ts";
import { FileBytes, SECTOR } from "../support/file-bytes.ts";
import { MemoryLog } from "../support/memory-log.ts";
import { qemuImg } from "../support/qemu.ts";
import { RecordingNode } from "../support/recording-node.ts";
import { type Content, DAMAGED, describeDamage, readSectors, sectorsOf, valueName } from "../support/sector-content.ts";
import { type Allowed, allowedNames, allows } from "../support/sector-model.ts";
import { type Disk, openDisk } from "./disk.ts";

/** What may be found, and what to say when something else is. */
export interface Expectation {
  /** By sector. */
  readonly allowed: ArrayLike<Allowed>;
  readonly lengths: readonly number[];
  readonly linked: readonly boolean[];
  readonly tell: (sector: number) => string;
}

/** Used again for each image that is read: megabytes each time would be most of the time that a test takes. */
let scratch = new Uint8Array(0);

function scratchOf(length: number): Uint8Array {
  if (scratch.length < length) scratch = new Uint8Array(length * 2);
  return scratch.subarray(0, length);
}

/** Reads all of an image and compares it with what may be there. */
export async function readContent(node: MappedFormatNode, expected: Expectation, when: string): Promise<Content> {
  assert(expected.lengths.includes(node.length), `${when}: the length is ${node.length}, not ${expected.lengths}`);
  const linked = node.backingReference !== undefined;
  assert(expected.linked.includes(linked), `${when}: the image ${linked ? "still names" : "does not name"} its base`);
  const bytes = scratchOf(node.length);
  await node.read(0, bytes);
  return compareContent(bytes, expected, when);
}

function compareContent(bytes: Uint8Array, expected: Expectation, when: string): Content {
  const wrong: string[] = [];
  const content = readSectors(bytes, 0);
  for (const [sector, value] of content.entries()) {
    const allowed = expected.allowed[sector];
    if (allows(allowed, value)) continue;
    const holds = value === DAMAGED ? describeDamage(bytes.slice(sector * SECTOR)) : valueName(value);
    const may = allowedNames(allowed);
    wrong.push(`sector ${sector} holds ${holds}; it may hold ${may} (${expected.tell(sector)})`);
  }
  if (wrong.length > 0) assert.fail(`${when}: ${wrong.length} sectors are wrong\n  ${wrong.slice(0, 4).join("\n  ")}`);
  return content;
}

function assertSound(result: CheckResult, when: string, leaksAllowed = true): void {
  const { corruptions, leaks, findings } = result;
  const bad = corruptions > 0 || result["check-errors"] > 0 || (leaks > 0 && !leaksAllowed);
  assert(!bad, `${when}: ${corruptions} corruptions, ${leaks} leaks\n  ${findings.slice(0, 4).join("\n  ")}`);
}

/** A copy of what a crash left, to be opened any number of times. */
export class Remains {
  readonly disk: Disk;
  readonly bytes: FileBytes;
  readonly log: MemoryLog | undefined;

  constructor(disk: Disk, bytes: FileBytes, records: readonly MappingRecord[]) {
    this.disk = disk;
    this.bytes = bytes.copy();
    this.log = disk.logged ? new MemoryLog(records) : undefined;
  }

  /** A copy of this copy: what a crash now would leave. */
  copy(): Remains {
    return new Remains(this.disk, this.bytes, this.log?.records ?? []);
  }

  open(options: { readOnly?: boolean; forCheck?: boolean; withLog?: boolean } = {}): Promise<MappedFormatNode> {
    const { withLog = true, ...how } = options;
    const fails = (operation: string) => {
      if (!how.readOnly || operation === "read") return undefined;
      return { error: new Error(`A ${operation} to an image that is open read-only`), done: 0 };
    };
    const { bytes } = this;
    const file = new RecordingNode({ bytes, name: "crashed", fails });
    return openDisk(this.disk, file, { ...how, log: withLog ? this.log : undefined });
  }

  async check(when: string, leaksAllowed = true): Promise<CheckResult> {
    await using node = await this.open({ readOnly: true, forCheck: true });
    const result = await node.check();
    assertSound(result, when, leaksAllowed);
    return result;
  }
}

/** Opens read-only, checks, repairs by opening, closes, and looks again each time. Returns what was read. */
export async function verifyRemains(
  remains: Remains,
  expected: Expectation,
  { countsMayBeLow = false } = {},
): Promise<Content> {
  {
    await using node = await remains.open({ readOnly: true });
    await readContent(node, expected, "opened read-only");
  }
  if (!countsMayBeLow) await remains.check("before the repair");
  const node = await remains.open();
  const content = await readContent(node, expected, "after the repair");
  assertSound(await node.check(), "after the repair");
  await node.close();
  const same = { ...expected, allowed: content };
  assert.equal(remains.log?.records.length ?? 0, 0, "The log is left after a clean close");
  const { closesWithoutLeaks } = remains.disk;
  await remains.check("after a clean close", !closesWithoutLeaks);
  await using closed = await remains.open({ readOnly: true });
  assert.equal(closed.describe()["dirty-flag"], false, "The mark is left after a clean close");
  await readContent(closed, same, "after a clean close");
  return content;
}

/** Gives leaks back as `check` does, on what has not been repaired yet. */
export async function verifyLeakRepair(remains: Remains, expected: Expectation): Promise<void> {
  {
    await using node = await remains.open({ forCheck: true });
    assertSound(await node.check({ repair: "leaks" }), "with repair of leaks");
  }
  await verifyRemains(remains, expected);
  {
    await using node = await remains.open({ forCheck: true });
    assertSound(await node.check({ repair: "leaks" }), "with another repair of leaks");
  }
  await using node = await remains.open({ readOnly: true });
  await readContent(node, expected, "after the repair of leaks");
}

/** Another program writes to the image before we come back, and knows nothing of our log. */
export async function verifyForeignWriter(remains: Remains, value: number): Promise<void> {
  let content: Content;
  {
    await using foreign = await remains.open({ withLog: false });
    const sectors = foreign.length / SECTOR;
    await foreign.write(0, sectorsOf(value, 0, Math.min(24, sectors)));
    await foreign.discard(Math.floor(sectors / 2) * SECTOR, Math.floor(sectors / 4) * SECTOR);
    const bytes = scratchOf(foreign.length);
    await foreign.read(0, bytes);
    content = readSectors(bytes, 0);
  }
  const stale = remains.log?.records.length ?? 0;
  const expected: Expectation = {
    allowed: content,
    lengths: [content.length * SECTOR],
    linked: [true, false],
    tell: () => `another program closed the image, and ${stale} records of the log were left`,
  };
  {
    await using node = await remains.open({ readOnly: true });
    await readContent(node, expected, "after another program, read-only");
  }
  // We come back, write one sector, and die: the old records must not come back with the new ones.
  const node = await remains.open();
  await readContent(node, expected, "after another program");
  await node.write(0, sectorsOf(value + 1, 0, 1));
  const died = remains.copy();
  await node.close();
  await verifyRemains(died, { ...expected, allowed: content.with(0, value + 1) });
}

/** QEMU writes to the image and is killed, and knows nothing of our log: what it flushed counts, and no record of before. */
export async function verifyKilledQemu(remains: Remains, value: number, directory: string): Promise<void> {
  const { format, base } = remains.disk;
  const image = join(directory, `foreign.${format}`);
  const pattern = join(directory, "pattern");
  const raw = join(directory, "content.raw");
  writeFileSync(image, remains.bytes.view());
  if (base !== undefined) writeFileSync(join(directory, "base.raw"), base.bytes);
  writeFileSync(pattern, sectorsOf(value, 0, 8));
  const write = [`write -s ${pattern} 0 ${8 * SECTOR}`, "flush", "sigraise 9"];
  const qemu = spawnSync("qemu-io", ["-f", format, ...write.flatMap((command) => ["-c", command]), image]);
  assert.equal(qemu.signal, "SIGKILL", qemu.stderr.toString());
  qemuImg("convert", "-f", format, "-O", "raw", image, raw);
  const content = readSectors(new Uint8Array(readFileSync(raw)), 0);
  assert.equal(content[0], value, "QEMU's write is there");
  // QEMU's lazy refcounts are too low until somebody repairs them.
  const killed = new Remains(remains.disk, new FileBytes(readFileSync(image)), remains.log?.records ?? []);
  const tell = () => "QEMU wrote to it after us, and was killed";
  const expected = { allowed: content, lengths: [content.length * SECTOR], linked: [true, false], tell };
  await verifyRemains(killed, expected, { countsMayBeLow: true });
}

/**
 * Lazy refcounts: a dirty image's reference counts may be anything too low, whole blocks of them missing. They are counted anew, and
 * nothing in use is given away meanwhile.
 */
export async function verifyLostCounts(remains: Remains, expected: Expectation, random: Random): Promise<void> {
  const bytes = remains.bytes.view();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const clusterSize = 2 ** view.getUint32(20);
  const table = Number(view.getBigUint64(48));
  const entries = (view.getUint32(56) * clusterSize) / 8;
  view.setUint32(76, view.getUint32(76) | 1); // The dirty bit.
  for (let region = 0; region < entries; region++) {
    const block = Number(view.getBigUint64(table + region * 8));
    if (block === 0) continue;
    if (chance(random, 0.5)) bytes.fill(0, block, block + clusterSize);
    if (chance(random, 0.3)) view.setBigUint64(table + region * 8, 0n);
  }
  const node = await remains.open();
  await readContent(node, expected, "after lost reference counts were repaired");
  assertSound(await node.check(), "after lost reference counts were repaired");
  await node.write(0, new Uint8Array(Math.min(node.length, 100 * SECTOR)));
  await node.close();
  await remains.check("after lost reference counts were repaired, and a clean close", false);
}

/** What qemu-img says of it. It does not know our log: only after power loss does it read what we do. */
export function verifyWithQemu(remains: Remains, expected: Expectation, directory: string): void {
  const { format, base } = remains.disk;
  const image = join(directory, `crashed.${format}`);
  writeFileSync(image, remains.bytes.view());
  if (base !== undefined) writeFileSync(join(directory, "base.raw"), base.bytes);
  const check = spawnSync("qemu-img", ["check", "-f", format, image], { encoding: "utf8" });
  const said = `${check.stdout}${check.stderr}`;
  if (check.status !== 0 && check.status !== 3) writeFileSync("/tmp/bad.img", remains.bytes.view());
  assert(check.status === 0 || check.status === 3, `qemu-img check: exit ${check.status}\n${said.slice(0, 2000)}`);
  const raw = join(directory, "content.raw");
  const { snapshot } = remains.disk;
  if (snapshot !== undefined) {
    qemuImg("convert", "-f", format, "-l", "snapshot.name=first", "-O", "raw", image, raw);
    const same = { ...expected, allowed: snapshot, tell: () => "that is the internal snapshot" };
    // It reads as much of it as the disk has now.
    const bytes = new Uint8Array(readFileSync(raw)).subarray(0, snapshot.length * SECTOR);
    compareContent(bytes, same, "the snapshot, as qemu-img reads it");
  }
  if ((remains.log?.records.length ?? 0) > 0) return;
  qemuImg("convert", "-f", format, "-O", "raw", image, raw);
  compareContent(new Uint8Array(readFileSync(raw)), expected, "as qemu-img reads it");
}
