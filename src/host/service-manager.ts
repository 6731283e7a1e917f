/**
 * What a service tells systemd about itself (sd_notify(3)): lines of `NAME=VALUE` in one datagram to the Unix socket that
 * `NOTIFY_SOCKET` names, with `@` in front for one in the abstract namespace. Node.js has no such sockets, so that takes the native
 * calls.
 */
import { closeSync } from "node:fs";
import { nativeCalls, nativeProblem, systemError } from "./native.ts";

export interface ServiceManager {
  /** It takes a service for dead that it has not heard of for so long, in milliseconds; undefined: it does not mind. */
  readonly watchdogMs: number | undefined;
  /**
   * Tells it something: `READY=1`, `WATCHDOG=1`, `STATUS=...`.
   *
   * @throws {Error} of the system; one that names what is missing when there are no native calls
   */
  tell(...lines: readonly string[]): void;
}

/** unix(7), socket(2), send(2). */
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_NOSIGNAL = 0x4000;
/** `sun_path` of a `struct sockaddr_un`. */
const MOST_NAME_BYTES = 108;

/**
 * The service manager that started this process, if it wants to hear of it.
 *
 * @param environment as it gave it to this process
 */
export function serviceManager(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): ServiceManager | undefined {
  const name = environment["NOTIFY_SOCKET"] ?? "";
  if (!/^[/@]./.test(name)) return undefined;
  return { watchdogMs: watchdogMs(environment), tell: (...lines) => send(name, lines.join("\n")) };
}

/** sd_watchdog_enabled(3): it may be meant for another process, which has passed its environment on. */
function watchdogMs(environment: Readonly<Record<string, string | undefined>>): number | undefined {
  const microseconds = Number(environment["WATCHDOG_USEC"]);
  const meant = environment["WATCHDOG_PID"] ?? String(process.pid);
  return microseconds > 0 && meant === String(process.pid) ? microseconds / 1000 : undefined;
}

function send(name: string, text: string): void {
  const calls = nativeCalls();
  if (calls === undefined) throw new Error(`it takes the native calls, which are not here: ${nativeProblem()}`);
  const address = socketAddress(name);
  const fd = checked(calls.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
  try {
    checked(calls.sendto(fd, Buffer.from(text), MSG_NOSIGNAL, address), `sendto '${name}'`);
  } finally {
    closeSync(fd);
  }
}

/** A path ends with a zero byte; an abstract name begins with one, and is as long as the address says. */
function socketAddress(name: string): Uint8Array {
  const bytes = Buffer.from(name.startsWith("@") ? `\0${name.slice(1)}` : `${name}\0`);
  if (bytes.length > MOST_NAME_BYTES) throw new Error(`the name of the socket '${name}' is too long`);
  return Buffer.concat([Buffer.from([AF_UNIX, 0]), bytes]);
}

function checked(result: number, call: string): number {
  if (result < 0) throw systemError(result, call);
  return result;
}
