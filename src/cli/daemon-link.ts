/**
 * Which daemon a command speaks to: the one that it names, or that the environment names (STREAMDISK_DAEMON), or the one of this user
 * by the settings that a daemon here would have.
 */
import { statSync } from "node:fs";
import { join, resolve } from "node:path";
import { DaemonClient, fetchTransport } from "../client/index.ts";
import { readSettings, readToken } from "../daemon/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { unixTransport } from "../host/index.ts";
import type { DaemonFlags } from "./daemon-options.ts";

export interface DaemonLink {
  readonly client: DaemonClient;
  /** As people know it. */
  readonly address: string;
}

export async function linkToDaemon({ daemon, tokenFile }: DaemonFlags): Promise<DaemonLink> {
  const named = daemon ?? process.env["STREAMDISK_DAEMON"];
  if (named !== undefined && /^https?:\/\//.test(named)) {
    if (!URL.canParse(named)) throw new StreamdiskError("invalid-argument", `'${named}' is not the URL of a daemon`);
    const token = tokenFile === undefined ? undefined : await readToken(tokenFile);
    return { client: new DaemonClient(fetchTransport(named, token === undefined ? {} : { token })), address: named };
  }
  if (tokenFile !== undefined) {
    throw new StreamdiskError("invalid-argument", "Option '--token-file' needs a URL of a daemon (--daemon)");
  }
  const socket = named === undefined ? (await readSettings()).socket : socketIn(resolve(named));
  return { client: new DaemonClient(unixTransport(socket)), address: socket };
}

function socketIn(path: string): string {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ? join(path, "daemon.sock") : path;
}

/**
 * Does something with the daemon.
 *
 * @throws {StreamdiskError} `source-lost` when none answers, which says how to start one
 */
export async function withDaemon<T>(flags: DaemonFlags, act: (client: DaemonClient) => Promise<T>): Promise<T> {
  const { client, address } = await linkToDaemon(flags);
  try {
    return await act(client);
  } catch (error) {
    throw isUnreachable(error) ? unreachable(address, error) : error;
  }
}

/** Whether an error is that of a link, and no answer of a daemon. */
export function isUnreachable(error: unknown): boolean {
  for (let at = error, depth = 0; at instanceof Error && depth < 4; at = at.cause, depth++) {
    const { code } = at as NodeJS.ErrnoException;
    if (code !== undefined && /^(?:ECONNREFUSED|ENOENT|ENOTSOCK|ECONNRESET|EPIPE)$/.test(code)) return true;
  }
  return false;
}

/** Whether what failed may go well when the daemon has been started again. */
export function mayComeBack(error: unknown): boolean {
  return isUnreachable(error) || (error instanceof StreamdiskError && error.code === "shutdown");
}

function unreachable(address: string, error: unknown): StreamdiskError {
  const message = `No daemon answers at '${address}': start one with 'streamdisk daemon', or name another with --daemon`;
  return new StreamdiskError("source-lost", message, { node: address }, error);
}
