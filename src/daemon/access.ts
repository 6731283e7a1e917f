/**
 * Who may call the API.
 *
 * A Unix socket is guarded by its mode; a web page has no business there, so nobody who sends `Origin` is let in. Over TCP everybody shows
 * the token. There a browser on this machine can be made to call too, by a page from anywhere (cross-site requests) or by a name that
 * was made to point here (DNS rebinding): so `Host` must be a name of this server, and an `Origin` must be this server itself.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { StreamdiskError } from "../errors/index.ts";
import { HttpRefusal } from "./http-problem.ts";

/** By which way a request came. */
export type Caller =
  | { readonly kind: "unix" }
  | {
      readonly kind: "tcp";
      /** Of the peer. */
      readonly address: string;
      readonly secure: boolean;
      /** Whether a host, without its port, is a name of this server. */
      readonly isOwnName: (host: string) => boolean;
    };

export interface AccessRules {
  /** What callers over TCP have to show; without one, nobody is let in there. */
  readonly token?: string;
}

/**
 * Makes the check of one server.
 *
 * @returns a function that throws `refused` (403) or `permission` (401); `open` is for what needs no token
 */
export function accessCheck(rules: AccessRules): (caller: Caller, headers: Headers, open: boolean) => void {
  const expected = rules.token === undefined || rules.token === "" ? undefined : digest(rules.token);
  return (caller, headers, open) => {
    const origin = headers.get("origin");
    if (caller.kind === "unix") {
      if (origin !== null) throw foreign(origin);
      return;
    }
    const host = headers.get("host") ?? "";
    if (!caller.isOwnName(withoutPort(host))) {
      const message = `This daemon is not called '${host}': use the address that it listens on, or a name in its certificate`;
      throw new StreamdiskError("refused", message);
    }
    const own = `${caller.secure ? "https" : "http"}://${host}`;
    if (origin !== null && origin.toLowerCase() !== own.toLowerCase()) throw foreign(origin);
    if (open) return;
    const shown = /^Bearer +(\S+)$/i.exec(headers.get("authorization") ?? "")?.[1];
    if (shown === undefined) throw unknown("Over TCP the API takes a token: 'Authorization: Bearer TOKEN'");
    // Digests have one length, and where two of them differ says nothing about what they were made of.
    if (expected === undefined || !timingSafeEqual(digest(shown), expected)) throw unknown("The token is not valid");
  };
}

/** What limits a caller's rate: its address, or all who may use the Unix socket together. */
export function callerKey(caller: Caller): string {
  return caller.kind === "unix" ? "unix" : caller.address;
}

function withoutPort(host: string): string {
  return host.replace(/:\d{1,5}$/, "");
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

function foreign(origin: string): StreamdiskError {
  return new StreamdiskError("refused", `A page of '${origin}' may not use this API`);
}

function unknown(message: string): HttpRefusal {
  return new HttpRefusal(401, "permission", message, { "WWW-Authenticate": "Bearer" });
}
