/**
 * The page that the daemon shows, as it was built: a few files, read once and kept. What is not among them is not there, whatever path
 * somebody asks for.
 *
 * The page may load what comes from the daemon itself and nothing else, run no script that is not a file of it, and stand in no frame. Files
 * below `assets/` have a digest of their content in their names and never change.
 */
import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** By path, as in "/assets/index-Bd3f.js"; the page itself is "/". */
export type PageFiles = ReadonlyMap<string, PageFile>;

export interface PageFile {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly headers: Readonly<Record<string, string>>;
}

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};
const POLICY = [
  "default-src 'none'",
  ...["script-src", "style-src", "img-src", "connect-src"].map((what) => `${what} 'self'`),
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");
const ALWAYS = {
  "Content-Security-Policy": POLICY,
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
};

/** Reads the page; it has no files where it was not built. */
export async function pageFiles(directory = built()): Promise<PageFiles> {
  const names = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => []);
  const files = new Map<string, PageFile>();
  for (const entry of names) {
    const type = TYPES[extname(entry.name)];
    if (!entry.isFile() || type === undefined) continue;
    const path = join(entry.parentPath, entry.name);
    const name = path.slice(join(directory, "/").length);
    const cache = name.startsWith("assets/") ? "public, max-age=31536000, immutable" : "no-cache";
    const headers = { ...ALWAYS, "Content-Type": type, "Cache-Control": cache };
    files.set(name === "index.html" ? "/" : `/${name}`, { body: new Uint8Array(await readFile(path)), headers });
  }
  return files;
}

/** Beside this module when it is compiled, else where the build puts it. */
function built(): string {
  return fileURLToPath(new URL(import.meta.url.endsWith(".ts") ? "../../dist/web/" : "../web/", import.meta.url));
}
