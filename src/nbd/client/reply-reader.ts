/**
 * Reads the replies of the transmission phase from a connection's bytes, in whatever pieces they come.
 *
 * A reply is right or the connection ends. What a server sends is believed only as far as it fits the request: a cookie that
 * is in flight, a kind of reply that was negotiated and belongs to the command, chunks that lie inside the request, never
 * overlap, and cover all of it when it succeeded; extents that are not empty and end inside the export. Anything else
 * throws, and after that the stream can't be trusted: nothing more is read from it.
 *
 * Memory: the fixed parts and the small payloads of one chunk, in one buffer. Data goes from the socket's buffer
 * to where the caller wants it; extents are taken 512 at a time.
 */
import { StreamdiskError } from "../../errors/index.ts";
import {
  CHUNK,
  CHUNK_DONE,
  CHUNK_ERROR_BIT,
  COMMAND,
  getUint64,
  MAX_EXTENTS,
  MAX_STRING,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
  STRUCTURED_REPLY_MAGIC,
} from "../protocol.ts";
import type { NbdRequest } from "./request.ts";
import { plainText } from "./server-error.ts";
import { StatusRuns } from "./status-runs.ts";

/** What was negotiated, as far as replies go. */
export interface ReplyRules {
  /** What the export is called in messages. */
  readonly node: string;
  readonly exportLength: number;
  readonly structured: boolean;
  /** Metadata contexts by the number that the server gave them. */
  readonly contexts: ReadonlyMap<number, string>;
}

export interface ReplyReaderHooks {
  /** The request that is in flight under a cookie. */
  find(cookie: number): NbdRequest | undefined;
  /** Its reply is complete. */
  done(request: NbdRequest): void;
}

/** Room for the largest payload that is read as a whole: an error chunk's message, and extents in portions. */
const SCRATCH = 8192;
const EXTENT_PORTION = 4096;

type Awaited = "header" | "chunk" | "data-offset" | "hole" | "context" | "extents" | "error";

export class ReplyReader {
  readonly #rules: ReplyRules;
  readonly #hooks: ReplyReaderHooks;
  readonly #scratch = Buffer.alloc(SCRATCH);
  readonly #view = new DataView(this.#scratch.buffer, this.#scratch.byteOffset, SCRATCH);
  /** What the scratch buffer is being filled with, how much of it there is and how much it takes. */
  #awaited: Awaited = "header";
  #have = 0;
  #need = SIMPLE_REPLY_BYTES;
  /** Data of the current chunk that is still to come, and where in the request it goes. */
  #dataLeft = 0;
  #dataAt = 0;

  #request: NbdRequest | undefined;
  #chunkType = 0;
  #chunkLast = true;
  /** Payload of the current chunk that is still to come. */
  #payloadLeft = 0;
  #runs: StatusRuns | undefined;

  constructor(rules: ReplyRules, hooks: ReplyReaderHooks) {
    this.#rules = rules;
    this.#hooks = hooks;
  }

  /** The request whose reply is being read. */
  get current(): NbdRequest | undefined {
    return this.#request;
  }

  /** @throws {StreamdiskError} `protocol`: the connection is of no use any more */
  feed(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.#dataLeft > 0) {
        const count = Math.min(this.#dataLeft, bytes.length - at);
        const target = this.#request?.target;
        if (target !== undefined) bytes.copy(target, this.#dataAt, at, at + count);
        at += count;
        this.#dataAt += count;
        this.#dataLeft -= count;
        if (this.#dataLeft === 0) this.#endChunk();
        continue;
      }
      const count = Math.min(this.#need - this.#have, bytes.length - at);
      bytes.copy(this.#scratch, this.#have, at, at + count);
      at += count;
      this.#have += count;
      if (this.#have === this.#need) this.#take();
    }
  }

  #await(what: Awaited, bytes: number): void {
    this.#awaited = what;
    this.#have = 0;
    this.#need = bytes;
  }

  #take(): void {
    switch (this.#awaited) {
      case "header":
        this.#takeHeader();
        break;
      case "chunk":
        this.#takeChunkHeader();
        break;
      case "data-offset":
        this.#takeContent(getUint64(this.#view, 0), this.#payloadLeft - 8, true);
        break;
      case "hole":
        this.#takeContent(getUint64(this.#view, 0), this.#view.getUint32(8), false);
        break;
      case "context":
        this.#takeContext();
        break;
      case "extents":
        this.#takeExtents();
        break;
      case "error":
        this.#takeError();
        break;
    }
  }

  #takeHeader(): void {
    const magic = this.#view.getUint32(0);
    if (magic === SIMPLE_REPLY_MAGIC) {
      this.#takeSimpleReply();
    } else if (magic === STRUCTURED_REPLY_MAGIC) {
      if (!this.#rules.structured) this.#break("a structured reply, which was not negotiated");
      // The same header goes on.
      this.#awaited = "chunk";
      this.#need = STRUCTURED_REPLY_BYTES;
    } else {
      this.#break(`0x${magic.toString(16).padStart(8, "0")} where a reply should begin`);
    }
  }

  #takeSimpleReply(): void {
    const request = this.#find();
    const error = this.#view.getUint32(4);
    if (request.command === COMMAND.READ) {
      if (this.#rules.structured) this.#break("a simple reply, although structured replies were negotiated");
      if (error === 0) {
        request.coverage.add(0, request.length);
        this.#chunkLast = true;
        this.#dataAt = 0;
        this.#dataLeft = request.length;
        return;
      }
    } else if (request.command === COMMAND.BLOCK_STATUS && error === 0) {
      this.#break("a simple reply without extents");
    }
    if (error !== 0) request.noteError(error, "");
    this.#finish(request);
  }

  #takeChunkHeader(): void {
    const request = this.#find();
    const type = this.#view.getUint16(6);
    const length = this.#view.getUint32(16);
    this.#chunkType = type;
    this.#chunkLast = (this.#view.getUint16(4) & CHUNK_DONE) !== 0;
    this.#payloadLeft = length;

    if (type & CHUNK_ERROR_BIT) {
      const least = type === CHUNK.ERROR_OFFSET ? 14 : 6;
      if (length < least || length > SCRATCH) this.#break(`an error chunk of ${length} bytes`);
      this.#await("error", length);
    } else if (type === CHUNK.NONE) {
      if (length !== 0 || !this.#chunkLast) this.#break("a chunk without content that is not the end of the reply");
      this.#endChunk();
    } else if (type === CHUNK.OFFSET_DATA && request.command === COMMAND.READ) {
      if (length <= 8 || length - 8 > request.length) this.#break(`a data chunk of ${length} bytes`);
      this.#await("data-offset", 8);
    } else if (type === CHUNK.OFFSET_HOLE && request.command === COMMAND.READ) {
      if (length !== 12) this.#break(`a hole chunk of ${length} bytes`);
      this.#await("hole", 12);
    } else if (type === CHUNK.BLOCK_STATUS && request.command === COMMAND.BLOCK_STATUS) {
      const whole = length >= 12 && length % 8 === 4 && length <= 4 + 8 * MAX_EXTENTS;
      if (!whole) this.#break(`a block status chunk of ${length} bytes`);
      this.#await("context", 4);
    } else {
      this.#break(`a chunk of type ${type}, which is no answer to that`);
    }
  }

  /** @param hasData whether the bytes follow; a hole's are zeroes */
  #takeContent(offset: number, length: number, hasData: boolean): void {
    const request = this.#current();
    const what = hasData ? "data" : "hole";
    const start = offset - request.offset;
    const end = start + length;
    if (length === 0) this.#break(`an empty ${what} chunk`);
    if (start < 0 || end > request.length) this.#break(`a ${what} chunk of ${length} bytes at ${offset}, outside it`);
    if (request.coverage.overlaps(start, end)) {
      this.#break(`a ${what} chunk of ${length} bytes at ${offset}, where there was one before`);
    }
    const failed = request.errorOffset;
    if (failed !== undefined && failed >= offset && failed < offset + length) {
      this.#break(`a ${what} chunk of ${length} bytes at ${offset}, after an error at ${failed}`);
    }
    if (!request.coverage.add(start, end)) this.#break("too many chunks out of order");
    if (hasData) {
      this.#dataAt = start;
      this.#dataLeft = length;
    } else {
      request.target?.fill(0, start, end);
      this.#endChunk();
    }
  }

  #takeContext(): void {
    const request = this.#current();
    const id = this.#view.getUint32(0);
    const context = this.#rules.contexts.get(id);
    if (context === undefined) this.#break(`extents of the metadata context ${id}, which was not negotiated`);
    if (request.status.has(context)) this.#break(`extents of '${context}' twice`);
    this.#runs = new StatusRuns();
    request.status.set(context, this.#runs);
    this.#payloadLeft -= 4;
    this.#await("extents", Math.min(this.#payloadLeft, EXTENT_PORTION));
  }

  #takeExtents(): void {
    const request = this.#current();
    const runs = this.#runs!;
    const longest = this.#rules.exportLength - request.offset;
    for (let at = 0; at < this.#need; at += 8) {
      const length = this.#view.getUint32(at);
      if (length === 0) this.#break(`an empty extent at ${request.offset + runs.told}`);
      if (runs.told >= request.length) this.#break(`an extent at ${request.offset + runs.told}, beyond it`);
      if (runs.told + length > longest) {
        const where = request.offset + runs.told;
        this.#break(
          `an extent of ${length} bytes at ${where}, past the end of the export (${this.#rules.exportLength})`,
        );
      }
      runs.add(length, this.#view.getUint32(at + 4));
    }
    this.#payloadLeft -= this.#need;
    if (this.#payloadLeft === 0) this.#endChunk();
    else this.#await("extents", Math.min(this.#payloadLeft, EXTENT_PORTION));
  }

  #takeError(): void {
    const request = this.#current();
    const value = this.#view.getUint32(0);
    const textLength = this.#view.getUint16(4);
    const hasOffset = this.#chunkType === CHUNK.ERROR_OFFSET;
    const least = 6 + textLength + (hasOffset ? 8 : 0);
    if (textLength > MAX_STRING || least > this.#payloadLeft) {
      this.#break(`an error chunk of ${this.#payloadLeft} bytes with a message of ${textLength}`);
    }
    if (value === 0) this.#break("an error chunk without an error");
    let offset: number | undefined;
    if (hasOffset) {
      offset = getUint64(this.#view, 6 + textLength);
      if (offset < request.offset || offset >= request.offset + request.length) {
        this.#break(`an error at ${offset}, outside it`);
      }
    }
    request.noteError(value, plainText(this.#scratch.subarray(6, 6 + textLength)), offset);
    this.#endChunk();
  }

  /** The current chunk, or simple reply, is complete. */
  #endChunk(): void {
    this.#await("header", SIMPLE_REPLY_BYTES);
    if (!this.#chunkLast) {
      this.#request = undefined;
      return;
    }
    const request = this.#current();
    if (request.errorValue === 0) {
      if (request.command === COMMAND.READ && request.coverage.bytes !== request.length) {
        this.#break(`only ${request.coverage.bytes} bytes`);
      }
      if (request.command === COMMAND.BLOCK_STATUS) {
        for (const context of this.#rules.contexts.values()) {
          if (!request.status.has(context)) this.#break(`no extents of '${context}'`);
        }
      }
    }
    this.#finish(request);
  }

  #finish(request: NbdRequest): void {
    this.#await("header", SIMPLE_REPLY_BYTES);
    this.#request = undefined;
    this.#hooks.done(request);
  }

  #current(): NbdRequest {
    return this.#request!;
  }

  /** The request that the header in the scratch buffer answers. */
  #find(): NbdRequest {
    const cookie = getUint64(this.#view, 8);
    this.#request = this.#hooks.find(cookie);
    return this.#request ?? this.#break(`a reply to the cookie ${this.#scratch.toString("hex", 8, 16)}`);
  }

  /** @param what the server sent */
  #break(what: string): never {
    const { node } = this.#rules;
    const request = this.#request;
    const message =
      request === undefined
        ? `'${node}' breaks the NBD protocol: it sent ${what}, which answers nothing that was asked`
        : `'${node}' breaks the NBD protocol: it answered ${request} with ${what}`;
    throw new StreamdiskError("protocol", message, request?.context(node) ?? { node });
  }
}
