/**
 * One request of the transmission phase, from when it is made until it is answered, however many connections that takes.
 *
 * A read's bytes are put straight into the caller's target. Once the caller no longer waits (`abandon`) nothing is put
 * there any more, although the connection still takes the reply off the wire.
 */
import { StreamdiskError } from "../../errors/index.ts";
import { COMMAND, COMMAND_NAMES, type Command } from "../protocol.ts";
import { Coverage } from "./coverage.ts";
import { meaningOf } from "./server-error.ts";
import type { StatusRuns } from "./status-runs.ts";

export class NbdRequest {
  readonly command: Command;
  readonly offset: number;
  readonly length: number;
  /** What a WRITE writes. */
  readonly data: Uint8Array | undefined;
  /** Where a READ's bytes go. */
  target: Uint8Array | undefined;
  readonly answered: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  abandoned = false;

  /** Set by the connection that it is sent on. */
  cookie = 0;
  sentAt = 0;
  /** Connections that broke while it was in flight. */
  breaks = 0;

  /** The reply so far. */
  coverage = new Coverage();
  /** Of BLOCK_STATUS, by metadata context. */
  readonly status = new Map<string, StatusRuns>();
  /** The first error of the reply, and 0 while there is none. */
  errorValue = 0;
  errorText = "";
  /** Where it happened, when the server said so. */
  errorOffset: number | undefined;

  constructor(command: Command, offset: number, length: number, bytes?: { target?: Uint8Array; data?: Uint8Array }) {
    this.command = command;
    this.offset = offset;
    this.length = length;
    this.target = bytes?.target;
    this.data = bytes?.data;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.answered = promise;
    this.resolve = resolve;
    this.reject = reject;
  }

  /** Whether it changes what the export holds. */
  get writes(): boolean {
    const { command } = this;
    return command === COMMAND.WRITE || command === COMMAND.WRITE_ZEROES || command === COMMAND.TRIM;
  }

  /** Whether a server may have a lot to do for it before it can answer. */
  get slow(): boolean {
    const { command } = this;
    return command !== COMMAND.READ && command !== COMMAND.WRITE && command !== COMMAND.BLOCK_STATUS;
  }

  /** Forgets the reply so far, to be sent anew. */
  restart(): void {
    this.coverage = new Coverage();
    this.status.clear();
    this.errorValue = 0;
    this.errorText = "";
    this.errorOffset = undefined;
  }

  /** The caller waits no longer: nothing is written to its memory from now on. */
  abandon(reason: unknown): void {
    this.abandoned = true;
    this.target = undefined;
    this.reject(reason);
  }

  /** The first error counts. */
  noteError(value: number, text: string, offset?: number): void {
    if (this.errorValue !== 0) return;
    this.errorValue = value;
    this.errorText = text;
    this.errorOffset = offset;
  }

  /** The whole reply is there: hands the caller the result. */
  settle(node: string): void {
    if (this.errorValue === 0) {
      this.resolve();
      return;
    }
    const { code, text } = meaningOf(this.errorValue);
    const why = this.errorText === "" ? text : `${text}: ${this.errorText}`;
    const where = this.errorOffset === undefined ? "" : ` at ${this.errorOffset}`;
    this.reject(
      new StreamdiskError(code, `'${node}' answers ${this} with an error${where}: ${why}`, this.context(node)),
    );
  }

  context(node: string): { node: string; operation: string; offset: number; length: number } {
    return { node, operation: this.name, offset: this.offset, length: this.length };
  }

  get name(): string {
    return COMMAND_NAMES[this.command]!;
  }

  /** For messages: "READ of 4096 bytes at 0". */
  toString(): string {
    return this.length === 0 ? this.name : `${this.name} of ${this.length} bytes at ${this.offset}`;
  }
}
