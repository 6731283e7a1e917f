/**
 * Clients of one disk that do what they like, each on a connection of its own, against one byte array. No two requests that contradict
 * are under way at a time: so what one client was told is done must be seen by all others, whatever connection they have.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { NbdNode } from "../../src/nbd/index.ts";
import { noise } from "../support/cli.ts";
import { below, between, chance, oneOf, type Random } from "../support/draw.ts";
import { runPeer } from "../support/peer-process.ts";

const SECTOR = 512;
const LONGEST = 256 * 1024;

/** Requests, as often as they stand here. */
const REQUESTS = ["read", "read", "read", "write", "write", "zero", "discard", "flush"] as const;

interface UnderWay {
  readonly offset: number;
  readonly length: number;
  readonly changes: boolean;
}

export class SoakModel {
  readonly content: Buffer;
  /** Requests that have been answered. */
  readonly counts: Record<(typeof REQUESTS)[number], number> = { read: 0, write: 0, zero: 0, discard: 0, flush: 0 };
  readonly #end: number;
  readonly #underWay = new Set<UnderWay>();

  /** @param end where what is left to another client begins */
  constructor(content: Buffer, end: number) {
    this.content = content;
    this.#end = end;
  }

  /** One request of a client, from its choice to a look at its answer. */
  async act(node: NbdNode, random: Random): Promise<void> {
    const request = oneOf(random, REQUESTS);
    this.counts[request]++;
    if (request === "flush") return await node.flush();
    const range = this.#reserve(random, request !== "read");
    const { offset, length } = range;
    const there = this.content.subarray(offset, offset + length);
    try {
      if (request === "write") {
        const data = noise(length, below(random, 2 ** 31));
        await node.write(offset, data);
        data.copy(there);
      } else if (request === "zero") {
        await node.writeZeroes(offset, length);
        there.fill(0);
      } else if (request === "discard") {
        await node.discard(offset, length);
        await this.#discarded(node, range);
      } else {
        const bytes = Buffer.alloc(length);
        await node.read(offset, bytes);
        assert(bytes.equals(there), `a read of ${length} bytes at ${offset} is wrong`);
      }
    } finally {
      this.#underWay.delete(range);
    }
  }

  #reserve(random: Random, changes: boolean): UnderWay {
    for (;;) {
      const length = chance(random, 0.6) ? SECTOR * between(random, 1, 16) : between(random, 1, LONGEST);
      const range = { offset: below(random, this.#end - length), length, changes };
      if ([...this.#underWay].some((other) => (changes || other.changes) && touches(range, other))) continue;
      this.#underWay.add(range);
      return range;
    }
  }

  /** Each sector reads as it was, or as zeroes, and so it stays. */
  async #discarded(node: NbdNode, { offset, length }: UnderWay): Promise<void> {
    const now = Buffer.alloc(length);
    await node.read(offset, now);
    const before = this.content.subarray(offset, offset + length);
    for (let at = 0; at < length; ) {
      const to = Math.min(length, at + SECTOR - ((offset + at) % SECTOR));
      const sector = now.subarray(at, to);
      const mayBe = sector.equals(before.subarray(at, to)) || sector.every((byte) => byte === 0);
      assert(mayBe, `discarded, then read at ${offset + at}`);
      at = to;
    }
    now.copy(before);
  }
}

function touches(a: UnderWay, b: UnderWay): boolean {
  const sector = (at: number): number => Math.floor(at / SECTOR);
  return sector(a.offset) <= sector(b.offset + b.length - 1) && sector(b.offset) <= sector(a.offset + a.length - 1);
}

/**
 * libnbd beside them, on a range that is its own: it does the same there, and holds it against a byte array of its own.
 *
 * @param stop path of a file at whose appearance it ends
 * @param result path of the file that then has what it must have read
 * @returns what it did
 */
export async function libnbdClient(
  uri: string,
  range: { readonly offset: number; readonly length: number },
  { seed, stop, result }: { readonly seed: number; readonly stop: string; readonly result: string },
): Promise<string> {
  const values = { SEED: seed, OFFSET: range.offset, LENGTH: range.length, STOP: stop, RESULT: result };
  const given = Object.entries(values).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
  const script = join(import.meta.dirname, "soak-client.py");
  const code = [...given, `exec(open(${JSON.stringify(script)}).read())`].join("\n");
  const { status, stdout, stderr } = await runPeer("nbdsh", "-u", uri, "-c", code);
  assert.equal(status, 0, `nbdsh: ${stdout}${stderr}`);
  return stdout.trim();
}
