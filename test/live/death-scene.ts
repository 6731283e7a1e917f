/** A disk that is served, its guest, and what the guest must see while the source dies. */
import assert from "node:assert/strict";
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ServedDisk } from "../../src/engine/index.ts";
import { StreamdiskError } from "../../src/errors/index.ts";
import type { NbdNode } from "../../src/nbd/index.ts";
import { noise } from "../support/cli.ts";

const MIB = 2 ** 20;
export const SIZE: number = 48 * MIB;
/** Every even MiB. */
export const DATA: number = SIZE / 2;

/** What became of a read. */
export type Outcome = "right" | "error";

/** What a guest read that was local, meanwhile. */
export interface LocalReads {
  readonly count: number;
  readonly slowestMs: number;
}

export class Scene {
  readonly disk: ServedDisk;
  readonly guest: NbdNode;
  readonly model: Buffer;
  /** What the disk has told, in order. */
  readonly events: string[] = [];
  readonly #local: readonly number[];

  /** @param knowsHoles whether what the source has said is zero is as good as local */
  constructor(disk: ServedDisk, guest: NbdNode, model: Buffer, knowsHoles: boolean) {
    this.disk = disk;
    this.guest = guest;
    this.model = model;
    // The guest's own bytes, what was streamed first, and a hole of the base, beyond all that was fetched.
    this.#local = [SIZE - MIB + 4096, 8192, ...(knowsHoles ? [SIZE - MIB / 2] : [])];
    disk.on("source", ({ state }) => this.events.push(state));
    disk.on("pause", () => this.events.push("pause"));
    disk.on("stream-failed", ({ code }) => this.events.push(`stream: ${code}`));
  }

  async read(offset: number, length: number): Promise<Outcome> {
    const bytes = Buffer.alloc(length);
    try {
      await this.guest.read(offset, bytes);
    } catch (error) {
      assert(error instanceof StreamdiskError && error.code === "io", `${error}`);
      return "error";
    }
    assert(bytes.equals(this.model.subarray(offset, offset + length)), `wrong bytes at ${offset}`);
    return "right";
  }

  /** What needs no source is there, and can be written, whoever else waits. */
  async readLocal(): Promise<void> {
    for (const place of this.#local) assert.equal(await this.read(place, 4096), "right", `local read at ${place}`);
    await this.guest.write(SIZE - MIB + 8192, this.model.subarray(SIZE - MIB + 8192, SIZE - MIB + 16384));
    await this.guest.flush();
  }

  /** Reads what is local over and over, until it is called off. */
  readLocalOn(): () => Promise<LocalReads> {
    let [over, count, slowestMs] = [false, 0, 0];
    const reading = (async () => {
      while (!over) {
        const began = performance.now();
        const place = this.#local[count++ % this.#local.length] as number;
        assert.equal(await this.read(place, 4096), "right", `local read at ${place}`);
        slowestMs = Math.max(slowestMs, performance.now() - began);
        await sleep(4);
      }
    })();
    reading.catch(() => {});
    return async () => {
      over = true;
      await reading;
      return { count, slowestMs };
    };
  }

  async until(condition: () => Promise<boolean> | boolean, what: string): Promise<void> {
    // Long for any machine: it only ends a test that would hang.
    for (let i = 0; i < 6000; i++) {
      if (await condition()) return;
      await sleep(20);
    }
    assert.fail(`never ${what}; it said ${this.events.join(", ")}, ${JSON.stringify(await this.disk.info())}`);
  }
}

/** Each even MiB is data, the others are holes. */
export function makeBase(path: string): Buffer {
  const content = Buffer.alloc(SIZE);
  const file = openSync(path, "w");
  ftruncateSync(file, SIZE);
  for (let at = 0; at < SIZE; at += 2 * MIB) {
    noise(MIB, at + 5).copy(content, at);
    writeSync(file, content, at, MIB, at);
  }
  closeSync(file);
  return content;
}
