/** What a guest does to its disk at random, and to a model of it. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { below, between, chance, oneOf, type Random } from "../draw.ts";

const SECTOR = 512;

/** What the guest's `yes` makes. */
function repeated(text: string, length: number): Buffer {
  return Buffer.alloc(length, `${text}\n`);
}

/** A guest that takes commands, however they get there. */
export interface CommandedGuest {
  does(command: string): Promise<string>;
}

/** One act, in the guest and in the model. */
export async function act(guest: CommandedGuest, model: Buffer, random: Random, number: number): Promise<void> {
  const count = chance(random, 0.5) ? between(random, 1, 16) : between(random, 1, 512);
  const at = below(random, model.length / SECTOR - count);
  const range = model.subarray(at * SECTOR, (at + count) * SECTOR);
  if (chance(random, 0.6)) {
    const expected = createHash("md5").update(range).digest("hex");
    const read = await guest.does(`read ${at} ${count}`);
    assert.equal(read.slice(0, 32), expected, `act ${number}: read ${count} sectors at ${at}: ${read}`);
    return;
  }
  const text = `act-${number}-${at}`;
  const how = oneOf(random, ["write", "lazy"]);
  assert.equal(await guest.does(`${how} ${at} ${count} ${text}`), "written");
  repeated(text, range.length).copy(range);
  // The next read goes past the guest's cache.
  if (how === "lazy") assert.equal(await guest.does("flush"), "flushed");
}
