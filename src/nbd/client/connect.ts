import { NbdConnection } from "./connection.ts";
import { Dialler, type DialOptions } from "./dial.ts";
import type { NbdExportInfo } from "./export-info.ts";
import { inquireExport, listExports, openExport } from "./handshake.ts";
import { NbdLink } from "./link.ts";
import { NbdNode } from "./node.ts";
import type { NbdListEntry } from "./options.ts";

export interface ConnectNbdOptions extends DialOptions {
  /** Ends the attempt to connect; later it means nothing. */
  readonly signal?: AbortSignal | undefined;
  /** Refuses writes, also where the server would take them. @default false */
  readonly readOnly?: boolean | undefined;
  /**
   * How many connections to use at most, with a server that keeps them coherent.
   *
   * @default 4
   */
  readonly connections?: number | undefined;
  /**
   * How long a lost server is waited for before requests fail with `source-lost`.
   *
   * @default 0
   */
  readonly patienceMs?: number | undefined;
  /**
   * Metadata contexts to ask for: each costs the server time with every look at extents.
   *
   * @default base:allocation and qemu:allocation-depth
   */
  readonly contexts?: readonly string[] | undefined;
  /** Draws from [0, 1) for the pauses between attempts. @default Math.random */
  readonly random?: (() => number) | undefined;
}

const DEFAULT_CONNECTIONS = 4;

/**
 * Opens an export of an NBD server, by the URI of the NBD project's doc/uri.md. TLS asks for `nbds://` or `nbds+unix://`, and
 * is never given up for plain text.
 *
 * A server that is lost is connected to again for as long as the node is open. Requests that can't be answered meanwhile fail
 * with `source-lost`; a server that comes back with another size or fewer abilities makes all fail with `changed`.
 *
 * @example
 * await using disk = await connectNbd("nbd+unix:///?socket=/run/disk.sock");
 * const sector = new Uint8Array(512);
 * await disk.read(0, sector);
 * @throws {StreamdiskError} `invalid-argument` for the URI; `source-lost`, `permission`, `not-found` for an export that is not
 *   there, `refused` for TLS that failed or was demanded, `unsupported`, `protocol`
 */
export async function connectNbd(uri: string, options: ConnectNbdOptions = {}): Promise<NbdNode> {
  const { signal } = options;
  const dialler = await Dialler.prepare(uri, options);
  signal?.throwIfAborted();
  const { node, clock, timeoutMs } = dialler;
  const link = new NbdLink({
    node,
    clock,
    random: options.random ?? Math.random,
    patienceMs: options.patienceMs ?? 0,
    mostConnections: options.connections ?? DEFAULT_CONNECTIONS,
    connect: async (owner, over) => {
      const { socket, result } = await dialler.dial(over, (channel, greeting) =>
        openExport(channel, greeting, dialler.uri.exportName, options.contexts),
      );
      return new NbdConnection(socket, result, { node, clock, timeoutMs }, owner);
    },
  });
  const abort = () => link.abort(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    await link.open();
  } finally {
    signal?.removeEventListener("abort", abort);
  }
  return new NbdNode(link, { name: node, readOnly: link.info.readOnly || (options.readOnly ?? false) });
}

/**
 * Describes an export without opening it, if the server can do that, with all the metadata contexts that it offers.
 *
 * @throws {StreamdiskError} as {@link connectNbd}
 */
export async function nbdExportInfo(uri: string, options: DialOptions = {}): Promise<NbdExportInfo> {
  const dialler = await Dialler.prepare(uri, options);
  const { exportName } = dialler.uri;
  const { socket, result } = await dialler.dial(new AbortController().signal, (channel, greeting) =>
    inquireExport(channel, greeting, exportName),
  );
  await socket.end();
  if (result !== undefined) return result;
  await using node = await connectNbd(uri, options);
  return node.info;
}

/**
 * Lists the exports of the server that a URI names, whatever export it names.
 *
 * @throws {StreamdiskError} as {@link connectNbd}; `refused` and `unsupported` where the server keeps the list to itself
 */
export async function listNbdExports(uri: string, options: DialOptions = {}): Promise<NbdListEntry[]> {
  const dialler = await Dialler.prepare(uri, options);
  const { socket, result } = await dialler.dial(new AbortController().signal, listExports);
  await socket.end();
  return result;
}
