/**
 * From what a user or an image names to a node. A path and a `file:` URI are a file, the schemes of NBD an export of a
 * server, http and https an object; every other scheme is refused by name.
 *
 * What speaks to servers is loaded by the first who names one: most commands have nothing but files, and would start a fifth
 * slower. So what follows the scheme of an NBD URI is looked at when it is opened.
 */
import { stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import type { NbdNode } from "../nbd/index.ts";
import { FileNode, type OpenFileOptions, openFile } from "./file.ts";
import type { HttpNode } from "./http.ts";
import { shownUrl } from "./http-reply.ts";
import { openInTime } from "./open-in-time.ts";

/** Where bytes come from. */
export type SourceNode = FileNode | NbdNode | HttpNode;

/**
 * What servers that speak TLS are told, and trusted by. It is for `nbds:`, `nbds+unix:` and `https:` alone; whether a server is
 * spoken to by TLS is for its URI to say, never for this.
 */
export interface SourceOptions {
  /**
   * Directory with the certificates for NBD servers: `ca-cert.pem`, and for servers that ask for them `client-cert.pem` and
   * `client-key.pem`. `tls-certificates` in a URI counts for more.
   */
  readonly tlsCertificates?: string | undefined;
  /** File with the pre-shared keys for NBD servers, a line `user:hexkey` each. `tls-psk-file` in a URI counts for more. */
  readonly tlsPskFile?: string | undefined;
  /** File of certificates (PEM) that HTTPS servers are trusted by, beside those that Node.js trusts. */
  readonly caFile?: string | undefined;
}

/** What a reference names. */
export type SourceReference =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "nbd"; readonly uri: string }
  | { readonly kind: "http"; readonly uri: string };

/** RFC 3986, section 3.1; as in QEMU a path may not look like one. */
const SCHEME = /^([A-Za-z][A-Za-z0-9+.-]*):/;
const NBD_SCHEMES: readonly string[] = ["nbd", "nbds", "nbd+unix", "nbds+unix"];

/**
 * Decides what a reference names.
 *
 * @throws {StreamdiskError} `unsupported` for another scheme, `invalid-argument` for a URI that is none
 */
export function parseReference(reference: string): SourceReference {
  const scheme = SCHEME.exec(reference)?.[1]?.toLowerCase();
  if (scheme === undefined) return { kind: "file", path: reference };
  if (scheme === "file") return { kind: "file", path: pathOfFileUri(reference) };
  if (NBD_SCHEMES.includes(scheme)) {
    if (reference.startsWith("://", scheme.length)) return { kind: "nbd", uri: reference };
    const message = `'${reference}' is no NBD URI: write two slashes after '${scheme}:'`;
    throw new StreamdiskError("invalid-argument", message, { uri: reference });
  }
  if ((scheme === "http" || scheme === "https") && URL.canParse(reference)) return { kind: "http", uri: reference };
  const hint = `write './${reference}' if it is a file of that name`;
  throw new StreamdiskError("unsupported", `${scheme}: sources are not supported yet ('${reference}'); ${hint}`, {
    uri: reference,
  });
}

/** A reference as messages show it: an address on the web without what gives access to it. */
export function shownReference(reference: string): string {
  const isWeb = /^https?:/i.test(reference) && URL.canParse(reference);
  return isWeb ? shownUrl(new URL(reference)) : reference;
}

/** The host that a reference names; undefined for this one: a file, or a server on a Unix socket. */
export function hostOfReference(reference: string): string | undefined {
  const named = parseReference(reference);
  if (named.kind === "file" || !URL.canParse(named.uri)) return undefined;
  return new URL(named.uri).hostname || undefined;
}

function pathOfFileUri(reference: string): string {
  // QEMU writes file:PATH, everybody else file:///PATH.
  if (!reference.slice("file:".length).startsWith("//")) return reference.slice("file:".length);
  try {
    return fileURLToPath(reference);
  } catch (error) {
    const message = `'${reference}' names no file of this machine: write file:///PATH or just the path`;
    throw new StreamdiskError("invalid-argument", message, { uri: reference }, error);
  }
}

/**
 * Opens what a reference names. Only files are locked and created.
 *
 * @throws {StreamdiskError} as {@link parseReference}, {@link openFile} and `connectNbd` say
 */
export async function openSource(
  reference: string,
  options: Omit<OpenFileOptions, "create">,
  { caFile, tlsCertificates, tlsPskFile }: SourceOptions = {},
): Promise<SourceNode> {
  const named = parseReference(reference);
  if (named.kind === "file") return openInTime(named.path, openFile(named.path, options));
  if (named.kind === "http") {
    const { openHttp } = await import("./http.ts");
    return openHttp(named.uri, { caFile });
  }
  const { connectNbd } = await import("../nbd/index.ts");
  return connectNbd(named.uri, { readOnly: options.readOnly, tlsCertificates, tlsPskFile });
}

/**
 * Which source it is, whatever it is called: a file by device and inode, an export by its server and name, an object by its
 * address without what gives access to it.
 *
 * @throws {StreamdiskError} `not-found`, `permission` for a file; as {@link parseReference} says
 */
export async function sourceIdentity(source: string | SourceNode): Promise<string> {
  if (source instanceof FileNode) return `${source.identity.dev}:${source.identity.ino}`;
  const named = parseReference(typeof source === "string" ? source : source.name);
  if (named.kind === "http") return shownUrl(new URL(named.uri));
  if (named.kind === "nbd") {
    const { formatNbdUri, parseNbdUri } = await import("../nbd/index.ts");
    return formatNbdUri({ ...parseNbdUri(named.uri), params: new Map() });
  }
  try {
    const facts = await stat(named.path, { bigint: true });
    return facts.isBlockDevice() ? `${facts.rdev}:0` : `${facts.dev}:${facts.ino}`;
  } catch (error) {
    throw wrapSystemError(error, named.path, "find", { operation: "open" });
  }
}
