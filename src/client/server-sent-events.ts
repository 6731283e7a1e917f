/**
 * Server-sent events, as far as a daemon sends them (HTML Standard, "Server-sent events", "Interpreting an event stream"): pure, from
 * text in any pieces to messages.
 */

export interface Message {
  /** The last id that was given, by this message or one before. */
  readonly id: string | undefined;
  /** Undefined for what only gives an id. */
  readonly data: string | undefined;
}

/** Characters of one message: an event has a few hundred. */
const LONGEST = 1024 * 1024;

export class MessageParser {
  #rest = "";
  #id: string | undefined;
  #data: string[] = [];
  #length = 0;
  #changed = false;

  /** Takes the next piece. @throws {RangeError} for a message without an end */
  push(text: string): Message[] {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    const messages: Message[] = [];
    for (const line of lines) {
      this.#length += line.length;
      if (line !== "") this.#field(line);
      else {
        if (this.#changed)
          messages.push({ id: this.#id, data: this.#data.length === 0 ? undefined : this.#data.join("\n") });
        this.#data = [];
        this.#length = 0;
        this.#changed = false;
      }
    }
    if (this.#length + this.#rest.length > LONGEST) throw new RangeError("A message of the daemon has no end");
    return messages;
  }

  #field(line: string): void {
    const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name === "id") this.#id = value;
    else if (name === "data") this.#data.push(value);
    else return;
    this.#changed = true;
  }
}
