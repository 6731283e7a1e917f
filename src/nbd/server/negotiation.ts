/**
 * The handshake phase of one connection (doc/proto.md, "Fixed newstyle negotiation"): bytes in, options out to `Haggling`, until
 * the client has chosen an export or is gone. It knows no sockets: what it decides is done by its host.
 *
 * Nothing is kept of an option but what it sets, and one that is longer than any real one is skipped without being
 * kept. A client reads the reply to an option before it sends the next one; so one that doesn't is cut off before its replies pile up.
 * What comes behind STARTTLS in plain text was put there by somebody in between, and ends the connection.
 */
import type { StreamdiskError } from "../../errors/index.ts";
import { HANDSHAKE, OPTION_HEADER_BYTES, REPLY } from "../protocol.ts";
import { Haggling, type HagglingHost, type Outcome, turnedAway } from "./haggling.ts";
import { decodeOptionHeader } from "./option-codec.ts";
import type { Negotiated } from "./transmission.ts";

/** Longer than any option of a client that means well: names and queries have 4096 bytes at most. */
const LONGEST_OPTION = 64 * 1024;
const MOST_OPTIONS = 4096;
/** Bytes of the flags with which a client begins. */
const FLAGS_BYTES = 4;

/** What becomes of a connection. */
export interface NegotiationHost extends HagglingHost {
  /** Bytes sent that the client has not taken. */
  readonly unsent: number;
  /** The client has an export. @param rest what it has sent already */
  transmit(negotiated: Negotiated, rest: Buffer): void;
  /** TLS begins; another negotiation follows under it. */
  startTls(): void;
  /** Ends the connection after what was sent. */
  end(): void;
  /** Ends the connection now. */
  drop(why: StreamdiskError): void;
}

type Phase = "flags" | "option" | "data" | "skip" | "over";

export class Negotiation {
  readonly #host: NegotiationHost;
  readonly #encrypted: boolean;
  #haggling: Haggling;
  #phase: Phase;
  /** What has come and not been understood yet. */
  #chunks: Buffer[] = [];
  #length = 0;
  /** Bytes that the phase waits for. */
  #need: number;
  #option = 0;
  #count = 0;

  /** @param encrypted whether this is the negotiation after STARTTLS, which has no greeting */
  constructor(host: NegotiationHost, encrypted: boolean) {
    this.#host = host;
    this.#encrypted = encrypted;
    this.#haggling = new Haggling(host, encrypted, false);
    this.#phase = encrypted ? "option" : "flags";
    this.#need = encrypted ? OPTION_HEADER_BYTES : FLAGS_BYTES;
  }

  receive(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    try {
      while (this.#phase !== "over" && this.#length > 0) {
        if (this.#phase === "skip") this.#skip();
        else if (this.#length < this.#need) return;
        else this.#understand(this.#take(this.#need));
      }
    } catch (error) {
      this.#phase = "over";
      this.#host.drop(error as StreamdiskError);
    }
  }

  #take(length: number): Buffer {
    const [first] = this.#chunks;
    const all = this.#chunks.length === 1 && first !== undefined ? first : Buffer.concat(this.#chunks, this.#length);
    const rest = all.subarray(length);
    this.#chunks = rest.length > 0 ? [rest] : [];
    this.#length = rest.length;
    return all.subarray(0, length);
  }

  #understand(bytes: Buffer): void {
    if (this.#phase === "flags") this.#takeFlags(bytes.readUInt32BE(0));
    else if (this.#phase === "option") this.#takeHeader(bytes);
    else this.#takeOption(bytes);
  }

  #takeFlags(flags: number): void {
    if ((flags & ~(HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES)) !== 0) {
      throw turnedAway(`its flags are not known: ${flags}`);
    }
    if (this.#host.tls && (flags & HANDSHAKE.FIXED_NEWSTYLE) === 0) throw turnedAway("it is too old for TLS");
    this.#haggling = new Haggling(this.#host, this.#encrypted, (flags & HANDSHAKE.NO_ZEROES) === 0);
    this.#expectOption();
  }

  #expectOption(): void {
    this.#phase = "option";
    this.#need = OPTION_HEADER_BYTES;
  }

  #takeHeader(bytes: Buffer): void {
    const header = decodeOptionHeader(bytes);
    if (header === undefined) throw turnedAway("it sent what is no option");
    if (++this.#count > MOST_OPTIONS) throw turnedAway(`it sent more than ${MOST_OPTIONS} options`);
    if (this.#host.unsent > 0) throw turnedAway("it sends options and does not read the replies");
    this.#option = header.option;
    this.#need = header.length;
    if (header.length > LONGEST_OPTION) this.#phase = "skip";
    else if (header.length > 0) this.#phase = "data";
    else this.#takeOption(bytes.subarray(0, 0));
  }

  #skip(): void {
    this.#need -= this.#take(Math.min(this.#need, this.#length)).length;
    if (this.#need > 0) return;
    this.#haggling.refuse(this.#option, REPLY.ERR_TOO_BIG, `An option has ${LONGEST_OPTION} bytes at most`);
    this.#expectOption();
  }

  #takeOption(data: Buffer): void {
    const outcome = this.#haggling.take(this.#option, data);
    if (outcome.next === "option") this.#expectOption();
    else this.#finish(outcome);
  }

  #finish(outcome: Outcome): void {
    this.#phase = "over";
    if (outcome.next === "transmission") this.#host.transmit(outcome.negotiated, this.#take(this.#length));
    else if (outcome.next === "tls") {
      if (this.#length > 0) throw turnedAway("something came in plain text behind STARTTLS");
      this.#host.startTls();
    } else this.#host.end();
  }
}
