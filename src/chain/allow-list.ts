/**
 * Which files and servers an image may name. An image is hostile until its user says otherwise: one that names /etc/shadow
 * as its backing file would hand it to whoever reads the disk, and one that names a server would have it called. So a
 * reference is followed to what the user named, to files below the directory of the image that the user named, and to what
 * the user allowed by path or by the beginning of a URI. An image that is no file has no directory.
 *
 * Symbolic links are resolved on both sides before they are compared; what is opened is the resolved path.
 */
import { realpath } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { StreamdiskError } from "../errors/index.ts";
import { parseReference, shownReference } from "../sources/index.ts";
import { isUri, uriIsBelow } from "./uri-prefix.ts";

export class AllowList {
  readonly #paths: readonly string[] | "any";
  readonly #prefixes: readonly string[];

  private constructor(paths: readonly string[] | "any", prefixes: readonly string[]) {
    this.#paths = paths;
    this.#prefixes = prefixes;
  }

  /**
   * @param image path or URI of the image that the user named
   * @param allowed what the user allows beside its directory: each with all that lies below it
   */
  static async of(image: string, allowed: readonly string[] | "any" = []): Promise<AllowList> {
    if (allowed === "any") return new AllowList("any", []);
    const top = parseReference(image);
    // Of a symbolic link, both directories: relative references start from the one, the image lies in the other.
    const homes =
      top.kind === "file" ? [await resolved(dirname(resolve(top.path))), dirname(await resolved(top.path))] : [];
    const others = await Promise.all(allowed.filter((place) => !isUri(place)).map(resolved));
    return new AllowList([...homes, ...others], allowed.filter(isUri));
  }

  /**
   * @param target the absolute path or the URI that the image `image` means by `reference`
   * @returns it; a path with symbolic links resolved
   * @throws {StreamdiskError} `refused`
   */
  async demand(target: string, reference: string, image: string): Promise<string> {
    if (isUri(target)) {
      if (this.#paths === "any" || this.#prefixes.some((prefix) => uriIsBelow(target, prefix))) return target;
      throw refusal(image, reference, "", shownReference(target));
    }
    const real = await resolved(target);
    if (this.#paths === "any" || this.#paths.some((allowed) => isBelow(real, allowed))) return real;
    throw refusal(image, reference, `, which lies outside its own directory ('${real}')`, real);
  }
}

function refusal(image: string, reference: string, where: string, allow: string): StreamdiskError {
  const message =
    `'${shownReference(image)}' names '${shownReference(reference)}' as its backing file${where}: ` +
    `allow it with --allow-backing '${allow}', in a program with allowBacking, if you trust the image`;
  return new StreamdiskError("refused", message, { node: shownReference(image), uri: shownReference(reference) });
}

function isBelow(path: string, allowed: string): boolean {
  return path === allowed || path.startsWith(allowed.endsWith(sep) ? allowed : allowed + sep);
}

/** Resolves symbolic links as far as there is anything; what is not there has none. */
async function resolved(path: string): Promise<string> {
  const absolute = resolve(path);
  try {
    return await realpath(absolute);
  } catch {
    const parent = dirname(absolute);
    return parent === absolute ? absolute : join(await resolved(parent), basename(absolute));
  }
}
