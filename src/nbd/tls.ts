/**
 * The files that TLS needs, as nbdkit, libnbd and QEMU lay them out: a directory with `ca-cert.pem` and a certificate and key
 * for each role, or a file of pre-shared keys with lines `USER:HEX` as GnuTLS's psktool writes them.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";

/** What a directory of certificates holds for one role, in PEM. */
export interface TlsCertificates {
  /** Who may have signed the peer's certificate. */
  readonly ca: string;
  /** Which of those certificates are not valid any more. */
  readonly crl: string | undefined;
  /** Absent when there is none: a client need not have one. */
  readonly cert: string | undefined;
  readonly key: string | undefined;
}

/** The oldest version that either end speaks ("TLS versions"). */
export const TLS_MINIMUM = "TLSv1.2";

/**
 * The suites for pre-shared keys: with forward secrecy where the peer can, and never one in which a certificate takes part,
 * encryption is off, or the cipher is weak. Those of TLS 1.3 are apart from this list.
 */
export const PSK_CIPHERS = [
  "ECDHE-PSK-CHACHA20-POLY1305",
  "DHE-PSK-AES256-GCM-SHA384",
  "DHE-PSK-AES128-GCM-SHA256",
  "ECDHE-PSK-AES256-CBC-SHA384",
  "PSK-AES256-GCM-SHA384",
  "PSK-AES128-GCM-SHA256",
].join(":");

/** Bytes of a file of certificates or keys: more than anybody has. */
const LARGEST_FILE = 1024 * 1024;

/**
 * Reads the certificates of a role.
 *
 * @throws {StreamdiskError} `not-found` when the authority's is not there, for a server also without its own certificate and
 *   key; `permission`
 */
export async function loadTlsCertificates(directory: string, role: "client" | "server"): Promise<TlsCertificates> {
  const needed = role === "server";
  const cert = await readPem(join(directory, `${role}-cert.pem`), needed);
  return {
    ca: (await readPem(join(directory, "ca-cert.pem"), true)) ?? "",
    crl: await readPem(join(directory, "ca-crl.pem"), false),
    cert,
    // A certificate without its key is a mistake; a key alone is of no use.
    key: await readPem(join(directory, `${role}-key.pem`), needed || cert !== undefined),
  };
}

/**
 * Reads a file of pre-shared keys: from user to key.
 *
 * @throws {StreamdiskError} `not-found`, `permission`, `invalid-argument` for a line that is none
 */
export async function loadPskFile(path: string): Promise<Map<string, Buffer>> {
  const keys = new Map<string, Buffer>();
  const text = (await readSmall(path)).toString("utf8");
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [, user = "", hex = ""] = /^([^:]+):((?:[0-9a-f]{2})+)\s*$/i.exec(line) ?? [];
    if (user === "") {
      const message = `Line ${index + 1} of '${path}' is not of the form USER:HEXADECIMAL-KEY, as psktool writes it`;
      throw new StreamdiskError("invalid-argument", message, { node: path });
    }
    keys.set(user, Buffer.from(hex, "hex"));
  }
  if (keys.size > 0) return keys;
  throw new StreamdiskError("invalid-argument", `'${path}' holds no key: make one with psktool`, { node: path });
}

async function readPem(path: string, needed: boolean): Promise<string | undefined> {
  try {
    return (await readSmall(path)).toString("latin1");
  } catch (error) {
    if (!needed && error instanceof StreamdiskError && error.code === "not-found") return undefined;
    throw error;
  }
}

async function readSmall(path: string): Promise<Buffer> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw wrapSystemError(error, path, "read", { operation: "open" });
  }
  if (bytes.length <= LARGEST_FILE) return bytes;
  throw new StreamdiskError("invalid-argument", `'${path}' has ${bytes.length} bytes: it is no file of keys`, {
    node: path,
  });
}
