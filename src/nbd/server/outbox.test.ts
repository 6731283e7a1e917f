import assert from "node:assert/strict";
import { test } from "node:test";
import { BufferPool } from "./buffer-pool.ts";
import type { Link } from "./link.ts";
import { Outbox, SlabPool } from "./outbox.ts";
import type { Room } from "./room.ts";

/** A link whose kernel takes nothing before it is told to. */
class SlowLink implements Link {
  unsent = 0;
  readonly #callbacks: (() => void)[] = [];

  send(parts: readonly Buffer[]): void {
    for (const part of parts) this.unsent += part.length;
  }

  whenTaken(callback: () => void): void {
    this.#callbacks.push(callback);
  }

  /** Takes the oldest batch that was sent. */
  take(): void {
    this.#callbacks.shift()?.();
  }

  pause(): void {}
  resume(): void {}
  end(): void {}
  destroy(): void {}
}

test("a buffer is used again when its own batch has been taken, not when an earlier one has", () => {
  const link = new SlowLink();
  const buffers = new BufferPool();
  const room = { give: () => {} } as unknown as Room;
  const outbox = new Outbox(link, { slabs: new SlabPool(), buffers }, room, () => {});
  const large = buffers.take(512 * 1024);
  outbox.append(Buffer.alloc(16));
  outbox.flush();
  outbox.append(large);
  outbox.flush();
  link.take();
  assert.notEqual(buffers.take(512 * 1024).buffer, large.buffer);
  link.take();
  assert.equal(buffers.take(512 * 1024).buffer, large.buffer);
});
