/** What QEMU is told to open for a source: the arguments of `blockdev-add`, for what a reference of ours names. */
import { StreamdiskError } from "../../errors/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { parseNbdUri } from "../../nbd/index.ts";
import { parseReference } from "../../sources/index.ts";

/** Seconds that QEMU waits for an NBD server that it has lost, before reads of it fail. */
export const RECONNECT_DELAY = 10;

/**
 * @param reference a URI, or an absolute path
 * @throws {StreamdiskError} `unsupported` for a server that QEMU needs credentials for; as `parseReference` and `parseNbdUri` say
 */
export function sourceNode(reference: string, format: FormatName, nodeName: string) {
  return { driver: format, "node-name": nodeName, "read-only": true, file: protocolNode(reference) } as const;
}

function protocolNode(reference: string) {
  const named = parseReference(reference);
  if (named.kind === "file") return { driver: "file", filename: named.path };
  if (named.kind === "http") return { driver: new URL(named.uri).protocol.slice(0, -1), url: named.uri };
  const address = parseNbdUri(named.uri);
  if (address.tls) {
    const message = `QEMU needs credentials of its own for '${named.uri}': offer it to QEMU as an export of this host, with 'streamdisk export add'`;
    throw new StreamdiskError("unsupported", message, { uri: named.uri });
  }
  const server = address.unix
    ? { type: "unix", path: address.socket }
    : { type: "inet", host: address.host, port: String(address.port) };
  return { driver: "nbd", server, export: address.exportName, "reconnect-delay": RECONNECT_DELAY };
}
