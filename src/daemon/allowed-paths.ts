/**
 * What callers of the API may name: images, and what lies below them, only under the image directory and what the settings
 * allow beside it; keys of exports only where the settings say that keys are, which is no place for images: a disk would give them away. Whoever may call the daemon may do with those what the daemon's user may, and nothing with the rest of
 * the machine.
 *
 * Exports of the daemon itself may be named too: their images were.
 *
 * Symbolic links are resolved on both sides before they are compared, and what is opened is the resolved path.
 */
import { realpath } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, resolve, sep } from "node:path";
import { isUri, uriIsBelow } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DiskSettings } from "../jobs/index.ts";
import { isNbdUri, parseNbdUri } from "../nbd/index.ts";
import { parseReference, shownReference } from "../sources/index.ts";
import type { DaemonSettings } from "./settings.ts";

export class AllowedPaths {
  readonly #roots: readonly string[];
  readonly #prefixes: readonly string[];
  readonly #keys: readonly string[];
  readonly #imageDirectory: string;
  /** URIs of exports of this daemon. */
  readonly #own = new Set<string>();

  private constructor(roots: readonly string[], prefixes: readonly string[], keys: readonly string[]) {
    this.#imageDirectory = roots[0] ?? "";
    this.#roots = roots;
    this.#prefixes = prefixes;
    this.#keys = keys;
  }

  static async of(settings: Pick<DaemonSettings, "imageDirectory" | "allow" | "allowKeys">): Promise<AllowedPaths> {
    const { imageDirectory, allow, allowKeys } = settings;
    const places = [imageDirectory, ...allow.filter((place) => !isUri(place))];
    const [roots, keys] = await Promise.all([places, allowKeys].map((each) => Promise.all(each.map(resolvedPath))));
    return new AllowedPaths(roots ?? [], allow.filter(isUri), keys ?? []);
  }

  /** What images may name as their backing files, for those who open them. */
  get backing(): readonly string[] {
    return [...this.#roots, ...this.#prefixes, ...this.#own];
  }

  /** @param uri of an export of this daemon, which may be named from now on */
  addOwn(uri: string): void {
    this.#own.add(uri);
  }

  isOwn(uri: string): boolean {
    return this.#own.has(uri);
  }

  removeOwn(uri: string): void {
    this.#own.delete(uri);
  }

  /**
   * @param path absolute, or relative to the image directory
   * @returns the absolute path with symbolic links resolved
   * @throws {StreamdiskError} `refused`, `invalid-argument` for what is no path
   */
  async file(path: string): Promise<string> {
    const { kind } = parseReference(path);
    if (kind !== "file" || path.includes("\0")) {
      throw new StreamdiskError("invalid-argument", `'${shownReference(path)}' is not the path of a file`);
    }
    const real = await resolvedPath(resolve(this.#imageDirectory, fromFileUri(path)));
    if (this.#roots.some((root) => isBelow(real, root))) return real;
    throw refusal(path, real);
  }

  /**
   * @param reference a URI, or a path as for {@link file}
   * @returns it as it is to be opened
   * @throws {StreamdiskError} `refused`, and as `parseReference` says
   */
  async source(reference: string): Promise<string> {
    if (parseReference(reference).kind === "file") return this.file(reference);
    if ([...this.#prefixes, ...this.#own].some((prefix) => uriIsBelow(reference, prefix))) return reference;
    throw refusal(reference, shownReference(reference));
  }

  /**
   * Whether what was allowed once is so still: the settings may have become narrower.
   *
   * @param sockets directory with the daemon's own exports, which are held to the settings themselves
   * @throws {StreamdiskError} `refused`
   */
  async remembered({ image, backing }: Pick<DiskSettings, "image" | "backing">, sockets: string): Promise<void> {
    await this.source(image);
    if (backing !== undefined && !isServedIn(backing, sockets)) await this.source(backing);
  }

  /**
   * @param path of a file or a directory with keys, absolute
   * @returns it with symbolic links resolved
   * @throws {StreamdiskError} `refused`, `invalid-argument`
   */
  async keys(path: string): Promise<string> {
    const real = await resolvedPath(path);
    if (!this.#keys.some((place) => isBelow(real, place))) {
      const message = `This daemon may not use the keys in '${path}': start it with --allow-keys '${real}' to let it`;
      throw new StreamdiskError("refused", message, { node: path });
    }
    const root = this.#roots.find((place) => isBelow(real, place));
    if (root === undefined) return real;
    const message = `The keys in '${path}' could be read as an image, since images may lie in '${root}': keep them elsewhere`;
    throw new StreamdiskError("refused", message, { node: path });
  }
}

/** Whether a reference is to an export at a socket in a directory, as are the daemon's own. */
export function isServedIn(reference: string, sockets: string): boolean {
  const uri = isNbdUri(reference) ? parseNbdUri(reference) : undefined;
  return uri?.unix === true && dirname(uri.socket) === sockets;
}

function refusal(named: string, allow: string): StreamdiskError {
  const shown = shownReference(named);
  const message = `This daemon may not open '${shown}': start it with --allow '${allow}' (or what lies above it) to let it`;
  return new StreamdiskError("refused", message, { node: shown });
}

function fromFileUri(path: string): string {
  const named = parseReference(path);
  return named.kind === "file" ? named.path : path;
}

function isBelow(path: string, root: string): boolean {
  return path === root || path.startsWith(root.endsWith(sep) ? root : root + sep);
}

/** Resolves symbolic links as far as there is anything; what is not there has none. */
export async function resolvedPath(path: string): Promise<string> {
  if (!isAbsolute(path)) throw new StreamdiskError("invalid-argument", `'${path}' is not an absolute path`);
  try {
    return await realpath(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(await resolvedPath(parent), basename(path));
  }
}
