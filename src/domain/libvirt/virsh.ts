/**
 * Runs `virsh`, the program of libvirt's: one process a command, whose output and time are bounded. What comes from outside stands after
 * `--` or behind `=`, and nothing passes a shell. Messages are told apart by their English words, so that it must speak English.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable } from "node:stream";
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { inWords, type LibvirtAddress } from "./address.ts";
import { virshFailure, virshMissing } from "./virsh-error.ts";

export interface VirshOptions {
  /** How long it may take, in milliseconds. */
  readonly timeoutMs: number;
  /** The most that it may print, in bytes. */
  readonly limit: number;
  readonly clock?: Clock | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Of what it says of a failure. */
const MOST_COMPLAINTS = 4096;

export type VirshProcess = ChildProcessByStdio<null, Readable, Readable>;

/**
 * Starts `virsh COMMAND OPTIONS -- NAME ARGS`.
 *
 * @throws {StreamdiskError} `virshMissing`
 */
export async function startVirsh(
  { name, connect }: LibvirtAddress,
  [command, ...options]: readonly [string, ...string[]],
  args: readonly string[] = [],
): Promise<VirshProcess> {
  const env = { ...process.env, LC_ALL: "C", LANGUAGE: "" };
  const all = ["--quiet", `--connect=${connect}`, command, ...options, "--", name, ...args];
  try {
    const child = spawn("virsh", all, { env, stdio: ["ignore", "pipe", "pipe"] });
    // That it could not be ended is nobody's business.
    child.on("error", () => {});
    // One that could not be started may have no pipes: nobody looks at them before it is there.
    await once(child, "spawn");
    return child;
  } catch (error) {
    throw virshMissing(error as NodeJS.ErrnoException);
  }
}

/** The beginning of what a process complains of, as it comes. */
export function complaintsOf(child: VirshProcess): () => string {
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    text = (text + piece).slice(0, MOST_COMPLAINTS);
  });
  return () => text;
}

/**
 * Runs a command to its end.
 *
 * @returns what it printed
 * @throws {StreamdiskError} `virshFailure`; `unsupported` when there is no virsh; `io` when it takes too long; `protocol` when it prints too
 *   much; or the signal's reason
 */
export async function runVirsh(
  address: LibvirtAddress,
  command: string,
  args: readonly string[],
  { timeoutMs, limit, clock = systemClock, signal }: VirshOptions,
): Promise<Buffer> {
  signal?.throwIfAborted();
  const child = await startVirsh(address, [command], args);
  const complaints = complaintsOf(child);
  const pieces: Buffer[] = [];
  let length = 0;
  const over = new AbortController();
  const context = { node: inWords(address), operation: command };
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const abort = (): void => reject(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  child.stdout.on("data", (piece: Buffer) => {
    length += piece.length;
    pieces.push(piece);
    if (length <= limit) return;
    const message = `virsh ${command} prints more than ${limit} bytes for '${inWords(address)}'`;
    reject(new StreamdiskError("protocol", message, context));
  });
  child.once("close", (status) => {
    if (status === 0) resolve(Buffer.concat(pieces, length));
    else reject(virshFailure(address, command, complaints()));
  });
  void clock.sleep(timeoutMs, over.signal).then(() => {
    if (over.signal.aborted) return;
    const message = `virsh ${command} took more than ${timeoutMs / 1000} s for '${inWords(address)}': libvirt or its QEMU does not answer`;
    reject(new StreamdiskError("io", message, context));
  });
  try {
    return await promise;
  } finally {
    over.abort();
    signal?.removeEventListener("abort", abort);
    endVirsh(child);
  }
}

/** Ends a process, and listens to it no more. */
export function endVirsh(child: VirshProcess): void {
  child.kill("SIGKILL");
  child.stdout.destroy();
  child.stderr.destroy();
}
