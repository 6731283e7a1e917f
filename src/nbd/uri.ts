/**
 * NBD URIs (doc/uri.md of the NBD project): `nbd://`, `nbds://`, `nbd+unix://`, `nbds+unix://`.
 *
 * They are taken apart by the generic syntax of RFC 3986 (appendix B) and not by WHATWG's URL, which would resolve dots in an
 * export name. An authority is required for TCP and refused for a socket: the specification leaves both to the client, and
 * `nbd+unix://path` is a common slip. A parameter that means nothing here is refused, since it could be one that asks for more
 * security than there would be.
 */
import { StreamdiskError } from "../errors/index.ts";
import { MAX_STRING, NBD_PORT } from "./protocol.ts";

/** What an NBD URI says. */
export type NbdUri = NbdAddress & {
  /** Whether the connection must be encrypted. */
  readonly tls: boolean;
  /** Empty for the default export. */
  readonly exportName: string;
  /** User of the authority: who to be for TLS with pre-shared keys. */
  readonly user: string | undefined;
  /** Parameters of the query, without `socket`. */
  readonly params: ReadonlyMap<string, string>;
};

/** Where a server listens. */
export type NbdAddress =
  | { readonly unix: false; readonly host: string; readonly port: number }
  | { readonly unix: true; readonly socket: string };

const SCHEMES: Readonly<Record<string, { readonly tls: boolean; readonly unix: boolean }>> = {
  nbd: { tls: false, unix: false },
  nbds: { tls: true, unix: false },
  "nbd+unix": { tls: false, unix: true },
  "nbds+unix": { tls: true, unix: true },
};

/** RFC 3986, appendix B: scheme, authority, path, query, fragment. */
const PARTS = /^([^:/?#]+):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?$/s;
/** The authority: user, host (an address in brackets is IPv6), port. */
const AUTHORITY = /^(?:([^@]*)@)?(\[[^\]]*\]|[^:@]*)(?::(\d*))?$/;

const TLS_PARAMETERS = ["tls-type", "tls-hostname", "tls-verify-peer", "tls-certificates", "tls-psk-file"];

/** Whether a reference is an NBD URI, right or wrong. */
export function isNbdUri(reference: string): boolean {
  const scheme = /^([^:/]*):/.exec(reference)?.[1]?.toLowerCase();
  return scheme !== undefined && Object.hasOwn(SCHEMES, scheme);
}

/** @throws {StreamdiskError} `invalid-argument`, which says what is wrong with it */
export function parseNbdUri(text: string): NbdUri {
  const [, scheme = "", authority, path = "", query, fragment] = PARTS.exec(text) ?? [];
  const kind = isNbdUri(text) ? SCHEMES[scheme.toLowerCase()] : undefined;
  if (kind === undefined) throw wrong(text, "it must begin with nbd://, nbds://, nbd+unix:// or nbds+unix://");
  if (authority === undefined) throw wrong(text, `write two slashes after '${scheme}:'`);
  if (fragment !== undefined) throw wrong(text, "it has a fragment, which means nothing here; write # as %23");

  const exportName = decode(text, path.slice(1));
  if (Buffer.byteLength(exportName) > MAX_STRING)
    throw wrong(text, `its export name is longer than ${MAX_STRING} bytes`);
  if (exportName.includes("\0")) throw wrong(text, "its export name holds a NUL");
  const params = parameters(text, query, kind.tls);
  const socket = params.get("socket");
  params.delete("socket");
  const rest = { tls: kind.tls, exportName, params };

  if (kind.unix) {
    const { user, host, port } = splitAuthority(text, authority);
    if (host !== "" || port !== undefined) {
      throw wrong(text, "a host means nothing for a socket; write nbd+unix:///EXPORT?socket=PATH");
    }
    if (socket === undefined || socket === "") throw wrong(text, "it must say ?socket=PATH");
    return { ...rest, unix: true, socket, user };
  }
  if (socket !== undefined) throw wrong(text, `write ${scheme}+unix:// for a socket`);
  return { ...rest, unix: false, ...parseAuthority(text, authority) };
}

function parseAuthority(text: string, authority: string): { user: string | undefined; host: string; port: number } {
  const { user, host, port = "" } = splitAuthority(text, authority);
  if (host === "") throw wrong(text, "it names no host");
  const number = port === "" ? NBD_PORT : Number(port);
  if (number < 1 || number > 65535) throw wrong(text, `${port} is no port`);
  return { user, host: host.startsWith("[") ? host.slice(1, -1) : decode(text, host), port: number };
}

function splitAuthority(
  text: string,
  authority: string,
): { user: string | undefined; host: string; port: string | undefined } {
  const [, user = "", host, port] = AUTHORITY.exec(authority) ?? [];
  if (host === undefined) throw wrong(text, `'${authority}' is no host and port; write an IPv6 address in brackets`);
  if (user.includes(":")) throw wrong(text, "it holds a password, which NBD has no use for");
  return { user: user === "" ? undefined : decode(text, user), host, port };
}

function parameters(text: string, query: string | undefined, tls: boolean): Map<string, string> {
  const params = new Map<string, string>();
  for (const item of query?.split("&") ?? []) {
    if (item === "") continue;
    const cut = item.indexOf("=");
    const name = decode(text, cut < 0 ? item : item.slice(0, cut));
    if (name.startsWith("x-")) continue;
    if (name !== "socket" && !TLS_PARAMETERS.includes(name)) throw wrong(text, `the parameter '${name}' is not known`);
    if (name !== "socket" && !tls) throw wrong(text, `'${name}' is for nbds:// and nbds+unix://`);
    if (params.has(name)) throw wrong(text, `it says '${name}' twice`);
    params.set(name, cut < 0 ? "" : decode(text, item.slice(cut + 1)));
  }
  return params;
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw wrong(text, `'${part}' is not percent-encoded UTF-8; write % as %25`);
  }
}

function wrong(text: string, what: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", `'${withoutUser(text)}' is no NBD URI: ${what}`, {
    uri: withoutUser(text),
  });
}

/** A URI as messages may show it. */
export function withoutUser(text: string): string {
  return text.replace(/^([^:/?#]+:\/\/)[^/?#]*@/, "$1");
}

/** Writes the URI of an export, the opposite of {@link parseNbdUri}. */
export function formatNbdUri(
  uri: NbdAddress & {
    readonly tls: boolean;
    readonly exportName: string;
    readonly params?: ReadonlyMap<string, string>;
  },
): string {
  const scheme = `nbd${uri.tls ? "s" : ""}${uri.unix ? "+unix" : ""}`;
  const authority = uri.unix ? "" : authorityOf(uri.host, uri.port);
  const query = uri.unix ? [["socket", uri.socket], ...(uri.params ?? [])] : [...(uri.params ?? [])];
  const search = query.map(([name, value]) => `${name}=${encodeParameter(value ?? "")}`).join("&");
  return `${scheme}://${authority}/${encodeURIComponent(uri.exportName)}${search === "" ? "" : `?${search}`}`;
}

function authorityOf(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}${port === NBD_PORT ? "" : `:${port}`}`;
}

/** Slashes of a path stay readable; RFC 3986, section 3.4 allows them. */
function encodeParameter(value: string): string {
  return encodeURIComponent(value).replaceAll("%2F", "/");
}
