/**
 * A request that could not be answered on the spot, from when it is taken up until it is answered. It is done in pieces, of
 * which any number may be under way; the piece that ends last ends it.
 */
import { COMMAND, COMMAND_FLAG } from "../protocol.ts";
import type { RequestNode } from "./exports.ts";
import { PIECE, type RequestHeader } from "./request.ts";

const CHANGES: readonly number[] = [COMMAND.WRITE, COMMAND.WRITE_ZEROES, COMMAND.TRIM];

export class Operation {
  readonly flags: number;
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offset: number;
  readonly length: number;
  /** When it was there, of a write with all of its data: milliseconds of the clock. */
  since = 0;
  /** What it is carried out on. */
  readonly node: RequestNode;
  /** Where the next piece begins. */
  position: number;
  /** Pieces that have begun and not ended. */
  underWay = 0;
  /** The first error of a piece: there will be no more pieces. */
  error: unknown;
  /** Whether it is to be made durable before it is answered. */
  mustFlush: boolean;
  /** Whether the last chunk of its reply has been sent. */
  closed = false;
  /** Whether it has been answered, or given up. */
  answered = false;

  constructor(header: RequestHeader, node: RequestNode) {
    this.node = node;
    this.flags = header.flags;
    this.command = header.command;
    this.cookieHigh = header.cookieHigh;
    this.cookieLow = header.cookieLow;
    this.offset = header.offset;
    this.length = header.length;
    this.position = header.offset;
    this.mustFlush = this.has(COMMAND_FLAG.FUA) && CHANGES.includes(header.command);
  }

  get end(): number {
    return this.offset + this.length;
  }

  /** Whether no piece is to begin any more. */
  get launched(): boolean {
    return this.position === this.end || this.error !== undefined;
  }

  get done(): boolean {
    return this.launched && this.underWay === 0;
  }

  has(flag: number): boolean {
    return (this.flags & flag) !== 0;
  }

  /** Bytes of the next piece. A read whose reply can't be cut is one piece. */
  nextPiece(structured: boolean): number {
    const whole = this.command === COMMAND.READ && (!structured || this.has(COMMAND_FLAG.DF));
    return Math.min(this.end - this.position, whole ? this.length : PIECE);
  }
}
