/** A connection to a client as the transmission phase sees it: bytes out in bulk, a tap on the bytes in, an end. */
import type { Socket } from "node:net";

export interface Link {
  /** Bytes that were sent and that the kernel has not taken yet. */
  readonly unsent: number;
  /** Sends the parts in order. Their memory must stay as it is until they are taken. */
  send(parts: readonly Buffer[]): void;
  /** Calls back when everything sent before has been taken, or never will be. */
  whenTaken(callback: () => void): void;
  /** Stops bytes from coming in. */
  pause(): void;
  resume(): void;
  /** Ends the connection after what was sent. */
  end(): void;
  /** Ends it now. */
  destroy(): void;
}

const NOTHING = Buffer.alloc(0);

/**
 * Over a socket of Node.js. A write that the kernel takes at once is over when `write` returns, and needs no callback, which
 * would cost a tick; for any other an empty write behind it tells when it has been taken.
 */
export class SocketLink implements Link {
  readonly #socket: Socket;
  readonly #end: () => void;

  /** @param end ends the connection after what was sent */
  constructor(socket: Socket, end: () => void) {
    this.#socket = socket;
    this.#end = end;
  }

  get unsent(): number {
    return this.#socket.writableLength;
  }

  send(parts: readonly Buffer[]): void {
    const socket = this.#socket;
    if (!socket.writable) return;
    if (parts.length === 1) {
      socket.write(parts[0] as Buffer);
      return;
    }
    socket.cork();
    for (const part of parts) socket.write(part);
    socket.uncork();
  }

  whenTaken(callback: () => void): void {
    if (this.#socket.writable) this.#socket.write(NOTHING, () => callback());
    else setImmediate(callback);
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    this.#end();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}
