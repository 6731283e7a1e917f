/**
 * Which files an image may name. An image is hostile until its user says otherwise: one that names /etc/shadow as its
 * backing file would hand it to whoever reads the disk. So a reference is followed to files that the user named, to
 * files below the directory of the image that the user named, and to what the user allowed by path.
 *
 * Symbolic links are resolved on both sides before they are compared; what is opened is the resolved path.
 */
import { realpath } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { StreamdiskError } from "../errors/index.ts";

export class AllowList {
  readonly #paths: readonly string[] | "any";

  private constructor(paths: readonly string[] | "any") {
    this.#paths = paths;
  }

  /**
   * @param image path of the image that the user named
   * @param allowed what the user allows beside its directory: each with all that lies below it
   */
  static async of(image: string, allowed: readonly string[] | "any" = []): Promise<AllowList> {
    if (allowed === "any") return new AllowList("any");
    // Of a symbolic link, both directories: relative references start from the one, the image lies in the other.
    const homes = [await resolved(dirname(resolve(image))), dirname(await resolved(image))];
    const others = await Promise.all(allowed.filter((path) => !isUri(path)).map(resolved));
    return new AllowList([...homes, ...others]);
  }

  /**
   * @param path the file that the image `image` names by `reference`
   * @returns it with symbolic links resolved
   * @throws {StreamdiskError} `refused`
   */
  async demand(path: string, reference: string, image: string): Promise<string> {
    const real = await resolved(path);
    if (this.#paths === "any" || this.#paths.some((allowed) => isBelow(real, allowed))) return real;
    const message =
      `'${image}' names '${reference}' as its backing file, which lies outside its own directory ('${real}'): ` +
      `allow it with --allow-backing '${real}', in a program with allowBacking, if you trust the image`;
    throw new StreamdiskError("refused", message, { node: image, uri: reference });
  }
}

function isBelow(path: string, allowed: string): boolean {
  return path === allowed || path.startsWith(allowed.endsWith(sep) ? allowed : allowed + sep);
}

function isUri(text: string): boolean {
  return /^[^:/]*:/.test(text);
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
