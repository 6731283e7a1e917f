/**
 * The guest of the tests (`init.sh`) in a machine that somebody else runs: commands go to the socket of its console, answers are read from
 * its log, in which also stands what was written before anybody listened.
 */
import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 20;

export class GuestConsole implements Disposable {
  readonly #socket: Socket;
  readonly #log: string;
  /** What was read of the log, in characters of one byte. */
  #read: number;

  private constructor(socket: Socket, log: string, from: number) {
    this.#socket = socket;
    this.#log = log;
    this.#read = from;
    socket.on("error", () => {});
    socket.resume();
  }

  /**
   * Waits until a guest takes commands.
   *
   * @param from the length that its log had before it was booted
   * @returns it, and the size of the disk that it sees, in bytes
   */
  static async boot(socket: string, log: string, from = 0): Promise<{ guest: GuestConsole; diskBytes: number }> {
    const client = connect(socket);
    await once(client, "connect");
    const guest = new GuestConsole(client, log, from);
    const [, sectors = ""] = /^ready (\d+)$/.exec(await guest.#answer()) ?? [];
    return { guest, diskBytes: Number(sectors) * 512 };
  }

  /** Gives a command, one at a time, and waits for the answer. */
  async does(command: string): Promise<string> {
    this.#socket.write(`${command}\n`);
    return (await this.#answer()).trim();
  }

  /** The next line that begins with "@", without that. */
  async #answer(): Promise<string> {
    for (;;) {
      const fresh = readFileSync(this.#log, "latin1").slice(this.#read);
      const found = /^@(.*)\r?\n/m.exec(fresh);
      if (found !== null) {
        this.#read += found.index + found[0].length;
        return found[1]!.trimEnd();
      }
      await sleep(POLL_MS);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

/** The length of a log, for {@link GuestConsole.boot}. */
export function logLength(log: string): number {
  return statSync(log, { throwIfNoEntry: false })?.size ?? 0;
}
