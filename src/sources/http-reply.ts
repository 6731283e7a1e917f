/** What an HTTP reply to a range request says, checked. Pure. (RFC 9110, "Range Requests" and "Validator Fields") */
import { StreamdiskError } from "../errors/index.ts";

export type HttpHeaders = Readonly<Record<string, string | string[] | undefined>>;

/** Which version of an object it is: what must not change while it is a source. */
export interface HttpVersion {
  readonly length: number;
  readonly etag: string | undefined;
  readonly lastModified: string | undefined;
}

/** A `Content-Range` of a 206. */
export interface ContentRange {
  readonly start: number;
  /** Inclusive. */
  readonly end: number;
  readonly length: number;
}

function header(headers: HttpHeaders, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/**
 * @throws {StreamdiskError} `protocol` for one that is absent, malformed or of unknown length
 */
export function parseContentRange(headers: HttpHeaders, node: string): ContentRange {
  const text = header(headers, "content-range");
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/.exec(text ?? "");
  const [start, end, length] = match === null ? [] : match.slice(1).map(Number);
  const sound =
    start !== undefined &&
    end !== undefined &&
    length !== undefined &&
    start <= end &&
    end < length &&
    Number.isSafeInteger(length);
  if (sound) return { start, end, length };
  throw new StreamdiskError("protocol", `The server of '${node}' sent a Content-Range that is none: '${text ?? ""}'`, {
    node,
  });
}

/** The length that a 416 names ("bytes *" + "/0" for an empty object); undefined when it names none. */
export function unsatisfiedLength(headers: HttpHeaders): number | undefined {
  const match = /^bytes \*\/(\d{1,16})$/.exec(header(headers, "content-range") ?? "");
  return match === null ? undefined : Number(match[1]);
}

export function versionOf(headers: HttpHeaders, length: number): HttpVersion {
  return { length, etag: header(headers, "etag"), lastModified: header(headers, "last-modified") };
}

/**
 * @throws {StreamdiskError} `changed` when a reply is of another version than the pinned one
 */
export function mustBeSame(pinned: HttpVersion, now: HttpVersion, node: string): void {
  const differs =
    pinned.length !== now.length
      ? `${pinned.length} bytes then, ${now.length} now`
      : pinned.etag !== now.etag
        ? `ETag ${pinned.etag} then, ${now.etag} now`
        : pinned.lastModified !== now.lastModified
          ? `modified ${pinned.lastModified} then, ${now.lastModified} now`
          : undefined;
  if (differs === undefined) return;
  throw new StreamdiskError("changed", `'${node}' is not the object that it was when it was opened: ${differs}`, {
    node,
  });
}

/**
 * A reply must not be encoded: the range would be one of the encoded bytes.
 *
 * @throws {StreamdiskError} `protocol`
 */
export function mustBePlain(headers: HttpHeaders, node: string): void {
  const encoding = header(headers, "content-encoding");
  if (encoding === undefined || encoding === "identity") return;
  throw new StreamdiskError("protocol", `The server of '${node}' encodes it (${encoding}), which was not asked for`, {
    node,
  });
}

/** The error for a status that is neither success nor redirection. */
export function statusError(status: number, node: string): StreamdiskError {
  const said = `The server of '${node}' answered ${status}`;
  const context = { node };
  if (status === 200) {
    return new StreamdiskError("unsupported", `${said} to a range request: it serves whole objects only`, context);
  }
  if (status === 401 || status === 403 || status === 407) {
    return new StreamdiskError("permission", `${said}: access was refused, or has expired`, context);
  }
  if (status === 404 || status === 410) return new StreamdiskError("not-found", `${said}: it is not there`, context);
  if (status === 412 || status === 416) {
    return new StreamdiskError("changed", `${said}: the object has another size or version now`, context);
  }
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    return new StreamdiskError("source-lost", said, context);
  }
  return new StreamdiskError("protocol", said, context);
}

/** Whether a failure to connect (its code, as Node.js has them) is that of a certificate. */
export function isDistrust(code: string): boolean {
  return /^(?:UNABLE_TO_|CERT_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_CA|INVALID_PURPOSE|HOSTNAME_|ERR_TLS_CERT_)/.test(code);
}

/** A URL as messages show it: without credentials, and without its query, where presigned URLs carry theirs. */
export function shownUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`;
}
