/** The secret that callers over TCP show: made by the first daemon that listens there, in a file that only its user may read. */
import { randomBytes } from "node:crypto";
import { open, readFile } from "node:fs/promises";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";

const BYTES = 32;
const LEAST = 16;
const OTHERS = 0o077;

/**
 * Reads the token, or makes one.
 *
 * @throws {StreamdiskError} `refused` for a file that others may read, `invalid-argument` for a token that could be guessed
 */
export async function tokenIn(path: string): Promise<string> {
  try {
    await using made = await open(path, "wx", 0o600);
    const token = randomBytes(BYTES).toString("base64url");
    await made.writeFile(`${token}\n`);
    await made.sync();
    return token;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw wrapSystemError(error, path, "make the token");
  }
  return readToken(path);
}

/** Reads the token that a daemon has made. @throws {StreamdiskError} as {@link tokenIn}; `not-found` */
export async function readToken(path: string): Promise<string> {
  try {
    await using file = await open(path);
    const { mode } = await file.stat();
    if ((mode & OTHERS) !== 0) {
      throw new StreamdiskError("refused", `Others may read the token in '${path}': chmod 600 it, and change it`, {
        node: path,
      });
    }
    const token = (await readFile(file, "utf8")).trim();
    if (token.length >= LEAST) return token;
    throw new StreamdiskError("invalid-argument", `The token in '${path}' has fewer than ${LEAST} characters`, {
      node: path,
    });
  } catch (error) {
    throw wrapSystemError(error, path, "read the token");
  }
}
