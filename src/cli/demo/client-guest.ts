/**
 * The guest of a demo without QEMU: an NBD client that does what `guest-program.ts` says. A server that is gone it waits for, as QEMU does with
 * `reconnect-delay`.
 */
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { connectNbd, type NbdNode } from "../../nbd/index.ts";
import type { DemoGuest } from "./guest.ts";
import { GuestDiary } from "./guest-diary.ts";
import { BLOCK, type DiskModel, LOOK_BYTES, written } from "./model.ts";

const BEAT_PAUSE_MS = 250;
const LOOK_PAUSE_MS = 80;
const PATIENCE_MS = 60_000;
const MIB = 1024 ** 2;

export class ClientGuest implements DemoGuest {
  readonly diary = new GuestDiary();
  readonly #node: NbdNode;
  readonly #model: DiskModel;
  readonly #off = new AbortController();
  readonly #running: Promise<unknown>;

  private constructor(node: NbdNode, model: DiskModel) {
    this.#node = node;
    this.#model = model;
    this.diary.hear("up");
    this.#running = Promise.all([this.#beat(), this.#look()]).catch((error: unknown) => {
      this.diary.hear(`wrong ${error instanceof Error ? error.message : error}`);
    });
  }

  /** Connects, reads the first block, and goes on. */
  static async start(uri: string, model: DiskModel): Promise<ClientGuest> {
    const node = await connectNbd(uri, { connections: 1, patienceMs: PATIENCE_MS });
    await node.read(0, new Uint8Array(BLOCK));
    return new ClientGuest(node, model);
  }

  async off(): Promise<void> {
    this.#off.abort();
    await this.#running;
    this.diary.hear("off");
    // It would not vouch for what its server had acknowledged before kill -9: that is for the demo to verify.
    await this.#node.close().catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#off.abort();
    // Closing ends what still waits.
    await this.#node.close().catch(() => {});
    await this.#running;
  }

  async #beat(): Promise<void> {
    const { signal } = this.#off;
    for (let beat = 1; !signal.aborted; beat++) {
      const at = this.#model.beatBlock(beat) * BLOCK;
      const data = written(`beat ${beat}`, BLOCK);
      await this.#node.write(at, data);
      if (!data.equals(await this.#read(at))) return this.diary.hear(`wrong beat ${beat}`);
      this.diary.hear(`beat ${beat} at ${Math.floor(at / MIB)} MiB: written, right`);
      await sleep(BEAT_PAUSE_MS, undefined, { signal }).catch(() => {});
    }
  }

  async #look(): Promise<void> {
    const { signal } = this.#off;
    for (const [index, { block, isWrite }] of this.#model.looks.entries()) {
      if (signal.aborted) return;
      const at = block * BLOCK;
      const said = `look ${index + 1} at ${Math.floor(at / MIB)} MiB`;
      if (isWrite) {
        await this.#node.write(at, written(`look ${index + 1}`, LOOK_BYTES));
        this.diary.hear(`${said}: written`);
      } else {
        const sum = createHash("md5")
          .update(await this.#read(at))
          .digest("hex");
        if (sum !== this.#model.sum(block)) return this.diary.hear(`wrong look ${index + 1}`);
        this.diary.hear(`${said}: sum right`);
      }
      await sleep(LOOK_PAUSE_MS, undefined, { signal }).catch(() => {});
    }
  }

  async #read(offset: number): Promise<Uint8Array> {
    const block = new Uint8Array(BLOCK);
    await this.#node.read(offset, block);
    return block;
  }
}
