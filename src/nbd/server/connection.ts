/**
 * One client's connection from the greeting to the end: first a `Negotiation`, under TLS another one, then a `Transmission`. What the
 * socket says goes to the phase at hand.
 */
import type { Socket } from "node:net";
import type { TlsOptions } from "node:tls";
import type { Clock } from "../../block/index.ts";
import type { StreamdiskError } from "../../errors/index.ts";
import {
  GREETING_BYTES,
  HANDSHAKE,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
} from "../protocol.ts";
import type { ExportTable, NbdExport } from "./exports.ts";
import { turnedAway } from "./haggling.ts";
import { SocketLink } from "./link.ts";
import { Negotiation, type NegotiationHost } from "./negotiation.ts";
import type { OutboxMemory } from "./outbox.ts";
import { type Receiver, receiveFrom } from "./receiver.ts";
import type { SharedRoom } from "./room.ts";
import { startServerTls } from "./server-tls.ts";
import { Traffic, type TrafficFigures } from "./traffic.ts";
import { type Negotiated, Transmission } from "./transmission.ts";

/** How long a client may take until it has an export. */
const NEGOTIATING_MS = 30_000;
/** How long it may take to close its side. */
const LEAVING_MS = 5000;

/** A client that has an export, and what it has had. Plain data. */
export interface NbdClient extends TrafficFigures {
  /** Address and port; "unix" for a Unix socket, of which no more is known. */
  readonly peer: string;
  readonly tls: boolean;
  /** Since when it has the export, in milliseconds since 1970. */
  readonly since: number;
  /** Requests under way. */
  readonly inFlight: number;
}

/** What the connections of a server have in common. */
export interface ConnectionContext {
  readonly exports: ExportTable;
  readonly tls: TlsOptions | undefined;
  readonly memory: OutboxMemory;
  readonly shared: SharedRoom;
  readonly clock: Clock;
  /** Why an export takes no client more. */
  refusal(served: NbdExport): string | undefined;
  onError(error: unknown): void;
}

export class Connection implements NegotiationHost, Receiver {
  /** Resolves when the socket is closed. */
  readonly closed: Promise<void>;
  readonly traffic = new Traffic();
  readonly #peer: string;
  readonly #context: ConnectionContext;
  readonly #ended = new AbortController();
  readonly #negotiated = new AbortController();
  #socket: Socket;
  #phase: Negotiation | Transmission;
  #served: NbdExport | undefined;
  #since = 0;

  /** @param accepted paused */
  constructor(accepted: Socket, context: ConnectionContext) {
    this.#context = context;
    this.#peer = peerOf(accepted);
    this.#phase = new Negotiation(this, false);
    this.closed = new Promise((resolve) => this.#ended.signal.addEventListener("abort", () => resolve()));
    // What TLS is to be put upon must be a socket like any other.
    this.#socket = this.#watch(this.tls ? this.#listen(accepted) : receiveFrom(accepted, this));
    this.send(greeting());
    const signal = AbortSignal.any([this.#negotiated.signal, this.#ended.signal]);
    void context.clock.sleep(NEGOTIATING_MS, signal).then(() => {
      if (!signal.aborted) this.drop(turnedAway(`it has not chosen an export in ${NEGOTIATING_MS / 1000} s`));
    });
  }

  /** The export that the client uses; undefined while it negotiates. */
  get served(): NbdExport | undefined {
    return this.#served;
  }

  /** For who looks on. */
  client(): NbdClient {
    return {
      peer: this.#peer,
      tls: this.tls,
      since: this.#since,
      inFlight: this.#phase instanceof Transmission ? this.#phase.inFlight : 0,
      ...this.traffic.figures(),
    };
  }

  place(): Buffer | undefined {
    return this.#phase instanceof Transmission ? this.#phase.place() : undefined;
  }

  received(bytes: Buffer): void {
    // A negotiation keeps what it does not understand yet.
    this.#phase.receive(this.#phase instanceof Transmission ? bytes : Buffer.from(bytes));
  }

  #listen(socket: Socket): Socket {
    return socket.on("data", (bytes: Buffer) => this.received(bytes)).resume();
  }

  #watch(socket: Socket): Socket {
    socket.on("end", () => this.#onEnd());
    // What went wrong with a client's connection is followed by its end, which is all that matters.
    socket.on("error", () => {});
    return socket.on("close", () => this.#onClose());
  }

  /** The client sends no more. Only one that has said so before gets its answers. */
  #onEnd(): void {
    if (!(this.#phase instanceof Transmission && this.#phase.leaving)) this.destroy();
  }

  #onClose(): void {
    this.#ended.abort();
    if (this.#phase instanceof Transmission) this.#phase.gone();
  }

  /** Ends the connection when what is under way has been answered. */
  close(): void {
    if (this.#phase instanceof Transmission) this.#phase.close();
    else this.destroy();
  }

  /** Ends it without waiting for that. */
  giveUp(): void {
    if (this.#phase instanceof Transmission) this.#phase.giveUp();
    else this.destroy();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  get exports(): ExportTable {
    return this.#context.exports;
  }

  get tls(): boolean {
    return this.#context.tls !== undefined;
  }

  get unsent(): number {
    return this.#socket.writableLength;
  }

  refusal(served: NbdExport): string | undefined {
    return this.#context.refusal(served);
  }

  send(bytes: Buffer): void {
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  transmit(negotiated: Negotiated, rest: Buffer): void {
    const { memory, shared, clock, onError } = this.#context;
    const { traffic } = this;
    this.#negotiated.abort();
    this.#served = negotiated.served;
    this.#since = Date.now();
    const link = new SocketLink(this.#socket, () => this.end());
    const transmission = new Transmission({ ...negotiated, link, memory, shared, clock, traffic, onError });
    this.#phase = transmission;
    if (rest.length > 0) transmission.receive(rest);
  }

  startTls(): void {
    const plain = this.#socket;
    plain.removeAllListeners("data").removeAllListeners("end").pause();
    startServerTls(plain, this.#context.tls ?? {}).then(
      (secure) => {
        this.#phase = new Negotiation(this, true);
        this.#socket = this.#watch(this.#listen(secure));
      },
      (error: unknown) => {
        this.#context.onError(error);
        plain.destroy();
      },
    );
  }

  end(): void {
    this.#socket.end();
    void this.#context.clock.sleep(LEAVING_MS, this.#ended.signal).then(() => this.destroy());
  }

  drop(why: StreamdiskError): void {
    this.#context.onError(why);
    this.destroy();
  }
}

function peerOf({ remoteAddress, remotePort, remoteFamily }: Socket): string {
  if (remoteAddress === undefined) return "unix";
  return remoteFamily === "IPv6" ? `[${remoteAddress}]:${remotePort}` : `${remoteAddress}:${remotePort}`;
}

function greeting(): Buffer {
  const bytes = Buffer.alloc(GREETING_BYTES);
  bytes.writeUInt32BE(NBD_MAGIC_HIGH, 0);
  bytes.writeUInt32BE(NBD_MAGIC_LOW, 4);
  bytes.writeUInt32BE(OPTION_MAGIC_HIGH, 8);
  bytes.writeUInt32BE(OPTION_MAGIC_LOW, 12);
  bytes.writeUInt16BE(HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES, 16);
  return bytes;
}
