/** Whether a text is a URI and no path. */
export function isUri(text: string): boolean {
  return /^[A-Za-z][A-Za-z0-9+.-]*:/.test(text);
}

/** RFC 3986, section 3: scheme and authority, path, query and fragment. */
const PARTS = /^([^:/?#]+:(?:\/\/[^/?#]*)?)([^?#]*)(.*)$/s;
/** A segment that leads elsewhere than it seems to. */
const DOTS = /(?:^|[/=])(?:\.|%2e){1,2}(?:[/?&#]|$)/i;

/**
 * Whether a URI is what a prefix names, or lies below it. The prefix ends where a part of the URI does: `nbd://host` is no
 * prefix of `nbd://host.evil`. A query is part of what is named, as the socket and the certificates of NBD are, so it must be
 * in the prefix too; `https://host/dir/` stands for all queries of what lies below, since that is how servers are asked.
 */
export function uriIsBelow(uri: string, prefix: string): boolean {
  const [, root = "", path = "", query = ""] = PARTS.exec(uri) ?? [];
  const [, allowedRoot = "", allowedPath = "", allowedQuery = ""] = PARTS.exec(prefix) ?? [];
  if (root.toLowerCase() !== allowedRoot.toLowerCase()) return false;
  if (path === allowedPath && query === allowedQuery) return true;
  if (allowedQuery !== "" || DOTS.test(uri)) return false;
  if (query !== "" && !/^https?:/i.test(root)) return false;
  return path === allowedPath || path.startsWith(allowedPath.endsWith("/") ? allowedPath : `${allowedPath}/`);
}
