/**
 * The demo's guest: an NBD client that uses the disk while it arrives, as a machine would, and knows what it must read. It writes what
 * the model says, reads at random places and compares; a server that is gone it waits for, as QEMU does with `reconnect-delay`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { connectNbd, type NbdNode } from "../../nbd/index.ts";
import type { DiskModel } from "./model.ts";

/** What it has done since it was last asked. */
export interface GuestFigures {
  readonly reads: number;
  readonly writes: number;
  /** The request that took longest, in milliseconds. */
  readonly slowestMs: number;
}

/** Something that it read was not what it must be. */
export class WrongRead extends Error {}

const PAUSE_MS = 12;
const READ_BYTES = 64 * 1024;
const SECTOR = 512;
const PATIENCE_MS = 60_000;
const NOTHING: GuestFigures = { reads: 0, writes: 0, slowestMs: 0 };

export class DemoGuest implements AsyncDisposable {
  readonly #node: NbdNode;
  readonly #model: DiskModel;
  readonly #over = new AbortController();
  readonly #running: Promise<void>;
  #written = 0;
  #figures = NOTHING;
  #isLocal = false;
  #act: Promise<void> = Promise.resolve();

  private constructor(node: NbdNode, model: DiskModel) {
    this.#node = node;
    this.#model = model;
    this.#running = this.#run();
    this.#running.catch(() => {});
  }

  /** Connects, reads the first sector, and goes on. */
  static async start(uri: string, model: DiskModel): Promise<DemoGuest> {
    const node = await connectNbd(uri, { connections: 1, patienceMs: PATIENCE_MS });
    await node.read(0, new Uint8Array(SECTOR));
    return new DemoGuest(node, model);
  }

  /** How many of the model's writes are acknowledged. */
  get written(): number {
    return this.#written;
  }

  /** Rejects when it has read what is wrong, or was refused something. */
  get failed(): Promise<void> {
    return this.#running;
  }

  /** From now on it only reads what it has written; resolves when nothing else is under way. */
  async stayLocal(): Promise<void> {
    this.#isLocal = true;
    await this.#act;
  }

  /** It uses the whole disk again. */
  roam(): void {
    this.#isLocal = false;
  }

  /** What it has done since the last call. */
  takeFigures(): GuestFigures {
    const figures = this.#figures;
    this.#figures = NOTHING;
    return figures;
  }

  /** @throws {WrongRead} */
  async stop(): Promise<void> {
    this.#over.abort();
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    // Closing ends what still waits.
    await this.#node.close().catch(() => {});
    await this.#running.catch(() => {});
  }

  async #run(): Promise<void> {
    const { signal } = this.#over;
    for (let turn = 0; !signal.aborted; turn++) {
      const isWrite = turn % 2 === 0 && !this.#isLocal && this.#written < this.#model.writes.length;
      const began = performance.now();
      this.#act = isWrite ? this.#write() : this.#read();
      await this.#act;
      const { reads, writes, slowestMs } = this.#figures;
      this.#figures = {
        reads: reads + (isWrite ? 0 : 1),
        writes: writes + (isWrite ? 1 : 0),
        slowestMs: Math.max(slowestMs, performance.now() - began),
      };
      await sleep(PAUSE_MS, undefined, { signal }).catch(() => {});
    }
  }

  async #write(): Promise<void> {
    const write = this.#model.writes[this.#written]!;
    if (write.seed === 0) await this.#node.writeZeroes(write.offset, write.length);
    else await this.#node.write(write.offset, this.#model.data(write));
    this.#written++;
  }

  async #read(): Promise<void> {
    const { pieceBytes } = this.#model;
    const offset = this.#isLocal ? this.#somewhereWritten() : this.#somewhere();
    const piece = Math.floor(offset / pieceBytes) * pieceBytes;
    const read = new Uint8Array(Math.min(this.#isLocal ? SECTOR : READ_BYTES, piece + pieceBytes - offset));
    await this.#node.read(offset, read);
    const expected = this.#model.piece(piece, this.#written).subarray(offset - piece, offset - piece + read.length);
    if (Buffer.compare(read, expected) !== 0) {
      throw new WrongRead(`the guest read ${read.length} bytes at ${offset} that are not what was written`);
    }
  }

  #somewhere(): number {
    return SECTOR * Math.floor(Math.random() * (this.#model.length / SECTOR));
  }

  #somewhereWritten(): number {
    const { offset } = this.#model.writes[Math.floor(Math.random() * this.#written)]!;
    return offset;
  }
}
