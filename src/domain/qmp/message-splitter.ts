/**
 * Cuts what a monitor sends into its JSON objects, by their brackets alone: QMP ends a message with CR LF, but nothing
 * rests on that. A message may come in any pieces, several may come in one, and they need no newline between them.
 *
 * What is kept is bounded: a message by its bytes and its depth.
 */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const [OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET] = [0x7b, 0x7d, 0x5b, 0x5d];
const BLANKS: ReadonlySet<number> = new Set([0x20, 0x09, 0x0a, 0x0d]);

/** The description of all nodes of a machine with hundreds of disks takes less than a tenth of it. */
export const LONGEST_MESSAGE = 16 * 2 ** 20;
/** A backing chain is described by objects in objects. */
export const DEEPEST_MESSAGE = 1024;

export class MessageSplitter {
  #pieces: Buffer[] = [];
  #length = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  /**
   * Takes bytes as they come.
   *
   * @returns the texts of the messages that end in them
   * @throws {SyntaxError} for what is no object, and for one that is too long or too deep
   */
  feed(bytes: Buffer): string[] {
    const messages: string[] = [];
    let start = this.#depth > 0 ? 0 : -1;
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at]!;
      if (this.#depth === 0) {
        if (BLANKS.has(byte)) continue;
        if (byte !== OPEN_BRACE) throw new SyntaxError(`a byte 0x${byte.toString(16)} between messages`);
        start = at;
      }
      this.#look(byte);
      if (this.#depth > 0) continue;
      messages.push(this.#take(bytes.subarray(start, at + 1)));
      start = -1;
    }
    if (start >= 0) this.#keep(Buffer.from(bytes.subarray(start)));
    return messages;
  }

  /** Follows the brackets outside of strings. */
  #look(byte: number): void {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === QUOTE) this.#inString = false;
      return;
    }
    if (byte === QUOTE) this.#inString = true;
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) this.#depth++;
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) this.#depth--;
    if (this.#depth > DEEPEST_MESSAGE) throw new SyntaxError(`a message deeper than ${DEEPEST_MESSAGE}`);
  }

  #keep(piece: Buffer): void {
    this.#length += piece.length;
    if (this.#length > LONGEST_MESSAGE) throw new SyntaxError(`a message of more than ${LONGEST_MESSAGE} bytes`);
    this.#pieces.push(piece);
  }

  #take(last: Buffer): string {
    this.#keep(last);
    const text = Buffer.concat(this.#pieces, this.#length).toString("utf8");
    this.#pieces = [];
    this.#length = 0;
    return text;
  }
}
