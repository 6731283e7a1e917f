/**
 * The token by which the daemon knows this page. It comes in the fragment of the address, which no server ever sees, and goes from there
 * into the storage of this tab, so that it stays out of the history and of what people copy from the address bar.
 */
import { signal } from "@preact/signals";
import { DaemonClient, fetchTransport } from "../src/client/index.ts";

const KEY = "streamdisk.token";

/** Undefined until somebody has given one. */
export const token = signal<string | undefined>(undefined);

/** Takes the token from the address, or from this tab's storage. */
export function takeToken(): void {
  const given = new URLSearchParams(location.hash.replace(/^#\/?/, "")).get("token");
  if (given !== null) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", "#/");
  }
  token.value = sessionStorage.getItem(KEY) ?? undefined;
}

export function keepToken(given: string): void {
  sessionStorage.setItem(KEY, given);
  token.value = given;
}

/** A client of the daemon that this page is from. */
export function daemonClient(): DaemonClient {
  return new DaemonClient(fetchTransport(location.origin, token.value === undefined ? {} : { token: token.value }));
}
