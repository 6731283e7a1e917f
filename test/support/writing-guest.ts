/** A guest that writes all the time, comes back when the server of its disk has died, and looks whether what it wrote is there. */
import { setTimeout as sleep } from "node:timers/promises";
import { StreamdiskError } from "../../src/errors/index.ts";
import { connectNbd, type NbdNode } from "../../src/nbd/index.ts";
import { noise } from "./cli.ts";
import { below, between, chance, oneOf, type Random } from "./draw.ts";

const MIB = 2 ** 20;
const SECTOR = 512;
const WRITERS = 2;

/** A write, under way or acknowledged. */
interface Write {
  readonly offset: number;
  readonly data: Buffer;
}

/** What a disk must read as where clients write. */
export class WriteModel {
  readonly areas: ReadonlyMap<number, Buffer>;
  readonly underWay = new Set<Write>();
  acknowledged = 0;

  /**
   * @param base what was there before
   * @param written the MiB that are written to
   */
  constructor(base: Buffer, written: readonly number[]) {
    this.areas = new Map(written.map((mib) => [mib, Buffer.from(base.subarray(mib * MIB, (mib + 1) * MIB))]));
  }

  begin(random: Random): Write {
    for (;;) {
      const length = chance(random, 0.5) ? SECTOR * between(random, 1, 8) : between(random, 1, 100 * 1024);
      const offset = oneOf(random, [...this.areas.keys()]) * MIB + below(random, MIB - length);
      if ([...this.underWay].some((other) => touches(other, offset, length))) continue;
      const write = { offset, data: noise(length, below(random, 2 ** 31)) };
      this.underWay.add(write);
      return write;
    }
  }

  acknowledge(write: Write): void {
    put(write, this.areas);
    this.underWay.delete(write);
    this.acknowledged++;
  }

  /** Compares what is read after a death, and takes over what has become of the writes under way. */
  async verify(node: NbdNode, when: string): Promise<void> {
    const possible = new Map([...this.areas].map(([mib, bytes]) => [mib, Buffer.from(bytes)]));
    for (const write of this.underWay) put(write, possible);
    for (const [mib, known] of this.areas) {
      const read = Buffer.alloc(MIB);
      await node.read(mib * MIB, read);
      for (let at = 0; at < MIB; at += SECTOR) {
        const sector = read.subarray(at, at + SECTOR);
        if (sector.equals(known.subarray(at, at + SECTOR))) continue;
        if (sector.equals(possible.get(mib)!.subarray(at, at + SECTOR))) continue;
        throw new Error(`${when}, after ${this.acknowledged} writes: the sector at ${mib * MIB + at} is wrong`);
      }
      read.copy(known);
    }
    this.underWay.clear();
  }
}

function put({ offset, data }: Write, areas: ReadonlyMap<number, Buffer>): void {
  const mib = Math.floor(offset / MIB);
  data.copy(areas.get(mib)!, offset - mib * MIB);
}

function touches({ offset, data }: Write, from: number, length: number): boolean {
  const first = (at: number): number => Math.floor(at / SECTOR);
  return first(from) <= first(offset + data.length - 1) && first(offset) <= first(from + length - 1);
}

function isLoss(error: unknown): boolean {
  return error instanceof StreamdiskError && ["source-lost", "changed", "shutdown"].includes(error.code);
}

/** A guest: writes, and comes back when its connection breaks. */
export class WritingGuest {
  readonly name: string;
  readonly model: WriteModel;
  readonly running: Promise<void>;
  returns = 0;
  #over = false;

  constructor(name: string, uri: string, model: WriteModel, random: Random) {
    this.name = name;
    this.model = model;
    this.running = this.#run(uri, random);
    this.running.catch(() => {});
  }

  async #run(uri: string, random: Random): Promise<void> {
    while (!this.#over) {
      try {
        const node = await connectNbd(uri);
        try {
          await this.model.verify(node, `${this.name}, return ${this.returns}`);
          this.returns++;
          await Promise.all(Array.from({ length: WRITERS }, () => this.#write(node, random)));
        } finally {
          await node.close().catch(() => {});
        }
      } catch (error) {
        // Nobody listens for a moment: that is how it is while the disk is opened again.
        if (!isLoss(error)) throw error;
        await sleep(20);
      }
    }
  }

  async #write(node: NbdNode, random: Random): Promise<void> {
    while (!this.#over) {
      const write = this.model.begin(random);
      await node.write(write.offset, write.data);
      this.model.acknowledge(write);
      if (chance(random, 0.05)) await node.flush();
      await sleep(2);
    }
  }

  /** Comes back no more. */
  leave(): void {
    this.#over = true;
  }

  async stop(): Promise<void> {
    this.leave();
    await this.running;
  }
}
