/**
 * kill -9 of a process that writes to an image, at random moments, over and over on the same image: what it had acknowledged is there,
 * flushed or not, and what nobody wrote is as the base.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { createImage, openImage } from "../../src/image/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { below } from "../support/draw.ts";
import { SECTOR } from "../support/file-bytes.ts";
import { qemuCheckStatus } from "../support/peer-images.ts";
import { readSectors } from "../support/sector-content.ts";
import { allowedNames, allows, type Change, SectorModel } from "../support/sector-model.ts";
import { pick, rng, seed } from "../support/seed.ts";
import { Base } from "./disk.ts";

const WRITER = join(import.meta.dirname, "writer-process.ts");
const SECTORS = 20_000;

interface Shape {
  readonly format: "qcow2" | "qed";
  readonly options: Readonly<Record<string, string>>;
  /** Whether unflushed mappings are kept in a log. */
  readonly logged: boolean;
}

const shapes: readonly Shape[] = [
  { format: "qed", options: { cluster_size: "4K" }, logged: true },
  { format: "qcow2", options: { cluster_size: "4K" }, logged: true },
  { format: "qcow2", options: { cluster_size: "64K", extended_l2: "on" }, logged: true },
  { format: "qcow2", options: { cluster_size: "4K", compat: "v2" }, logged: false },
];

for (const { format, options, logged } of shapes) {
  const said = Object.entries(options).map(([name, value]) => `${name}=${value}`);
  test(`${format} ${said.join(" ")}: kill -9 (seed ${seed})`, async (t) => {
    const directory = temporaryDirectory(t);
    const logs = useLogs(t, join(directory, "logs"));
    const base = new Base(SECTORS * SECTOR, (sector) => Math.floor(sector / 700) % 3 === 0);
    writeFileSync(join(directory, "base.raw"), base.bytes);
    const path = join(directory, `vm.${format}`);
    await createImage(path, { format, options, backing: "base.raw", backingFormat: "raw" });

    const model = new SectorModel((sector) => base.valueOf(sector));
    const random = rng(`kill ${format} ${said.join(" ")}`);
    let moment = 0;
    let number = 1;
    let logBytes = 0;
    for (let life = 0; life < pick(2, 25); life++) {
      const lines = await writeAndKill(path, `kill ${path} ${life}`, number, 20 + below(random, 300));
      logBytes += sizeOf(logs);
      ({ moment, number } = remember(model, lines, moment, number));
      await verify(path, model, moment, random() < 0.5);
    }
    assert.equal(logBytes > 0, logged, `${logBytes} bytes of logs were left by the processes that were killed`);
    assert.deepEqual(readdirSync(logs), [], "no log is left after a clean close");
    const { status, corruptions, leaks } = qemuCheckStatus(path, format);
    assert.deepEqual([status, corruptions ?? 0], [leaks === undefined ? 0 : 3, 0]);
  });
}

/** Logs go to a directory of the test, in this process and those that it starts. */
function useLogs(t: TestContext, directory: string): string {
  mkdirSync(directory, { mode: 0o700 });
  const before = process.env.STREAMDISK_LOG_DIR;
  process.env.STREAMDISK_LOG_DIR = directory;
  t.after(() => {
    if (before === undefined) delete process.env.STREAMDISK_LOG_DIR;
    else process.env.STREAMDISK_LOG_DIR = before;
  });
  return directory;
}

function sizeOf(directory: string): number {
  return readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
}

/** Runs the writer until it has had so many acknowledgements, kills it, and returns all that it said. */
async function writeAndKill(path: string, name: string, number: number, acknowledgements: number): Promise<string[]> {
  const args = [WRITER, path, name, String(number)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  const lines: string[] = [];
  let acknowledged = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line);
    if (line.startsWith("done ") && ++acknowledged === acknowledgements) child.kill("SIGKILL");
  }
  const [, signal] = await ended;
  assert.equal(signal, "SIGKILL", "the writer ended by itself");
  return lines;
}

/** Takes what a writer said into the model, each line a moment. */
function remember(
  model: SectorModel,
  lines: readonly string[],
  from: number,
  firstNumber: number,
): { moment: number; number: number } {
  const open = new Map<number, Pick<Change, "acknowledged" | "weak">>();
  let moment = from;
  let number = firstNumber;
  for (const line of lines) {
    const [word, numeral, what, first, count] = line.split(" ");
    const which = Number(numeral);
    moment++;
    if (word === "done") {
      const change = open.get(which);
      assert(change !== undefined, line);
      change.acknowledged = moment;
    } else if (word === "begin" && what !== "flush") {
      const value = what === "write" ? which : 0;
      open.set(which, model.change(Number(first), Number(count), value, moment, what === "discard"));
    } else if (word === "begin") open.set(which, { acknowledged: 0, weak: true });
    number = Math.max(number, which + 1);
  }
  // Whether they came to be or not, what comes from now on comes after them.
  for (const change of open.values()) {
    if (change.acknowledged <= moment) continue;
    change.acknowledged = moment;
    change.weak = true;
  }
  return { moment: moment + 1, number };
}

/** Opens it, read-only first or not, and compares what is there. */
async function verify(path: string, model: SectorModel, moment: number, readOnlyFirst: boolean): Promise<void> {
  for (const readOnly of readOnlyFirst ? [true, false] : [false]) {
    await using image = await openImage(path, { readOnly });
    const bytes = new Uint8Array(image.node.length);
    await image.node.read(0, bytes);
    for (const [sector, value] of readSectors(bytes, 0).entries()) {
      const allowed = model.afterCrash(sector, moment, "death");
      if (allows(allowed, value)) continue;
      assert.fail(`sector ${sector} holds ${value}, not ${allowedNames(allowed)}: ${model.tell(sector)}`);
    }
    const { corruptions, findings } = await image.node.check();
    assert.equal(corruptions, 0, findings.join("\n"));
  }
}
