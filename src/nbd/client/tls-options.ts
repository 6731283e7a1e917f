/**
 * How a client proves who it is, and what proof it takes.
 *
 * With certificates: the server's must be signed by an authority that the user named, or else by one that Node.js trusts, and
 * be for the host of the URI. A Unix socket has no host: there the authority must be named and is enough, unless
 * `tls-hostname` says more. With a pre-shared key nothing else counts: no certificate is accepted in its place.
 */
import { isIP } from "node:net";
import { userInfo } from "node:os";
import type { ConnectionOptions } from "node:tls";
import { StreamdiskError } from "../../errors/index.ts";
import { loadPskFile, loadTlsCertificates, PSK_CIPHERS, TLS_MINIMUM } from "../tls.ts";
import type { NbdUri } from "../uri.ts";

export interface ClientTlsFiles {
  /** Directory of certificates, if the URI has no `tls-certificates`. */
  readonly tlsCertificates?: string | undefined;
  /** File of pre-shared keys, if the URI has no `tls-psk-file`. */
  readonly tlsPskFile?: string | undefined;
}

/**
 * Reads what a URI and the user's files ask for.
 *
 * @returns undefined for a URI without TLS
 * @throws {StreamdiskError} `invalid-argument`, `unsupported`, and as reading the files says
 */
export async function clientTlsOptions(
  uri: NbdUri,
  node: string,
  files: ClientTlsFiles,
): Promise<ConnectionOptions | undefined> {
  if (!uri.tls) return undefined;
  const type = uri.params.get("tls-type");
  const verify = uri.params.get("tls-verify-peer") ?? "1";
  if (verify !== "1")
    throw refusal("unsupported", node, "the server's identity is always checked; drop tls-verify-peer");
  if (type !== undefined && type !== "x509" && type !== "psk") {
    throw refusal("unsupported", node, `tls-type is x509 or psk, not '${type}'`);
  }
  const pskFile = uri.params.get("tls-psk-file") ?? files.tlsPskFile;
  if (type === "psk" && pskFile === undefined) {
    throw refusal("invalid-argument", node, "say where the key is: tls-psk-file=PATH");
  }
  if (pskFile !== undefined && type !== "x509") return pskOptions(uri, node, pskFile);
  return x509Options(uri, node, uri.params.get("tls-certificates") ?? files.tlsCertificates);
}

async function pskOptions(uri: NbdUri, node: string, file: string): Promise<ConnectionOptions> {
  const keys = await loadPskFile(file);
  const identity = uri.user ?? (keys.size === 1 ? [...keys.keys()][0]! : userInfo().username);
  const psk = keys.get(identity);
  if (psk === undefined) throw refusal("invalid-argument", node, `'${file}' has no key of '${identity}'`);
  return {
    pskCallback: () => ({ psk, identity }),
    ciphers: PSK_CIPHERS,
    minVersion: TLS_MINIMUM,
    // With no authority at all, a server that offers a certificate instead is turned away.
    ca: [],
    // Called for a server that has shown no certificate too.
    checkServerIdentity: () => undefined,
  };
}

async function x509Options(uri: NbdUri, node: string, directory: string | undefined): Promise<ConnectionOptions> {
  const given = uri.params.get("tls-hostname");
  const hostname = given ?? (uri.unix ? undefined : uri.host);
  if (directory === undefined && hostname === undefined) {
    throw refusal("invalid-argument", node, "say whom to trust: tls-certificates=DIRECTORY, or tls-hostname=NAME");
  }
  const files = directory === undefined ? undefined : await loadTlsCertificates(directory, "client");
  return {
    minVersion: TLS_MINIMUM,
    ...(files !== undefined && { ca: files.ca, crl: files.crl, cert: files.cert, key: files.key }),
    ...(hostname === undefined
      ? { checkServerIdentity: () => undefined }
      : { host: hostname, servername: isIP(hostname) ? "" : hostname }),
  };
}

function refusal(code: "unsupported" | "invalid-argument", node: string, why: string): StreamdiskError {
  return new StreamdiskError(code, `Could not connect to '${node}' by TLS: ${why}`, { node, operation: "connect" });
}
