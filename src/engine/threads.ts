/**
 * The threads of a process: about one a core, each with any number of disks. A disk stays where it is, with its socket, its tables
 * and its stream; disks of one source go to one thread, so that they share what is under way.
 *
 * A thread is started when it is first needed and ended with its last disk, so that a program that serves no more can end.
 *
 * A thread may die: of an error that nobody expected, or for want of memory. That ends neither the process nor other threads. Calls
 * under way fail at once; that its disks are lost is told when it has ended, which is after Node.js has waited for its requests to the
 * file system and closed its sockets and descriptors (`trackUnmanagedFds`), so that the locks on its images have fallen and
 * nothing of it writes any more: they can be opened again, as after kill -9, and have what was acknowledged (ADR 1).
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { StreamdiskError } from "../errors/index.ts";
import type { DiskEvent } from "./disk-spec.ts";
import {
  type CallMessage,
  type CallName,
  type DiskCalls,
  receivedError,
  type ThreadMessage,
} from "./thread-messages.ts";

interface Waiting {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Objects of a request live as short as it does. With Node.js's own bound they are let gather up to some 48 MiB. V8 takes three
 * parts out of this, of which one at a time is filled: 4 MiB, which the command line has them begin with. With 1 MiB a request
 * costs a tenth more of a processor's time, since what waits for a source is taken for old; with 8 it costs as much as with 4, and
 * 8 MiB more are resident.
 */
const YOUNG_MIB = 12;

let lastId = 0;

/** One thread. */
class DiskThread {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Map<number, (event: DiskEvent) => void>();
  readonly #onEnd: () => void;
  #dead: StreamdiskError | undefined;

  /** @param onEnd no other disk may come here */
  constructor(onEnd: () => void) {
    this.#onEnd = onEnd;
    // The module beside this one, compiled or not.
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    this.#worker = new Worker(new URL(`./thread.${extension}`, import.meta.url), {
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MIB },
    });
    this.#worker.on("message", (message: ThreadMessage) => this.#hear(message));
    this.#worker.on("error", (error) => this.#die(error instanceof Error ? error.message : String(error)));
    this.#worker.on("exit", () => this.#tellLost(this.#die("it was ended")));
  }

  get disks(): number {
    return this.#listeners.size;
  }

  /** Why it serves nothing any more. */
  get dead(): StreamdiskError | undefined {
    return this.#dead;
  }

  #hear(message: ThreadMessage): void {
    if ("event" in message) {
      this.#listeners.get(message.disk)?.(message.event);
      return;
    }
    const waiting = this.#waiting.get(message.reply);
    this.#waiting.delete(message.reply);
    if ("error" in message) waiting?.reject(receivedError(message.error));
    else waiting?.resolve(message.result);
  }

  #die(why: string): StreamdiskError {
    this.#dead ??= new StreamdiskError("shutdown", `The thread of the disk has died: ${why}`);
    this.#onEnd();
    for (const { reject } of this.#waiting.values()) reject(this.#dead);
    this.#waiting.clear();
    return this.#dead;
  }

  #tellLost({ message }: StreamdiskError): void {
    const listeners = [...this.#listeners.values()];
    this.#listeners.clear();
    for (const listener of listeners) listener({ type: "lost", message });
  }

  call<N extends CallName>(disk: number, name: N, args: DiskCalls[N]["args"]): Promise<DiskCalls[N]["result"]> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    const message: CallMessage = { call: ++lastId, disk, name, args };
    return new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(message.call, { resolve, reject });
      this.#worker.postMessage(message);
    }) as Promise<DiskCalls[N]["result"]>;
  }

  listen(disk: number, listener: (event: DiskEvent) => void): void {
    this.#listeners.set(disk, listener);
  }

  /** A disk has gone; the thread goes with the last one. */
  async leave(disk: number): Promise<void> {
    this.#listeners.delete(disk);
    if (this.#listeners.size > 0) return;
    // Its end takes a while, in which somebody may look for a thread.
    this.#onEnd();
    await this.#worker.terminate();
  }
}

const threads: { thread: DiskThread; readonly sources: Set<string> }[] = [];

/** A disk's place in a thread. */
export interface DiskPlace {
  readonly id: number;
  readonly thread: DiskThread;
}

/** Finds a thread for a disk: where its source is in use already, or the one with the fewest disks. */
export function placeDisk(source: string, listener: (event: DiskEvent) => void): DiskPlace {
  let place = threads.find(({ sources }) => sources.has(source));
  if (place === undefined && threads.length >= availableParallelism()) {
    place = threads.reduce((least, other) => (other.thread.disks < least.thread.disks ? other : least));
  }
  if (place === undefined) {
    const made = {
      thread: new DiskThread(() => {
        const at = threads.indexOf(made);
        if (at >= 0) threads.splice(at, 1);
      }),
      sources: new Set<string>(),
    };
    threads.push(made);
    place = made;
  }
  place.sources.add(source);
  const id = ++lastId;
  place.thread.listen(id, listener);
  return { id, thread: place.thread };
}
