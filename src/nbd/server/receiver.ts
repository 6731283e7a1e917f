/**
 * How bytes come in from an accepted socket: into memory that is there, instead of a new buffer for each read.
 *
 * Node.js offers that (`onread`) for sockets that a program opens, not for those that a server accepts. So the handle of an
 * accepted socket is given to a socket of our own. `_handle` is not documented: where it is not what it is known to be, the
 * bytes come by 'data' events, which costs a third more for large writes and changes nothing else.
 */
import { Socket, type SocketConstructorOpts } from "node:net";

export interface Receiver {
  /** Where the next bytes are to be put; undefined: anywhere. */
  place(): Buffer | undefined;
  /** @param bytes valid during the call, unless they lie where `place` said */
  received(bytes: Buffer): void;
}

const BUFFER_BYTES = 64 * 1024;

/** What all sockets of this thread receive into: what is in it has been dealt with before the next one is read from. */
const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);

/**
 * Begins to receive.
 *
 * @param accepted paused, as `pauseOnConnect` leaves it
 * @returns the socket to use from now on
 */
export function receiveFrom(accepted: Socket, receiver: Receiver): Socket {
  const holder = accepted as { _handle?: { useUserBuffer?: unknown } | null };
  const handle = holder._handle;
  if (typeof handle?.useUserBuffer !== "function") {
    accepted.on("data", (bytes: Buffer) => receiver.received(bytes));
    return accepted.resume();
  }
  holder._handle = null;
  const onread = {
    buffer: () => receiver.place() ?? buffer,
    callback: (count: number, into: Uint8Array) => {
      receiver.received((into as Buffer).subarray(0, count));
      return true;
    },
  };
  const socket = new Socket({
    handle,
    onread,
    allowHalfOpen: accepted.allowHalfOpen,
  } as unknown as SocketConstructorOpts);
  // The server counts the one that it has accepted.
  return socket.once("close", () => accepted.destroy());
}
