/**
 * The name of a Unix socket: taken over from a server that has died, never from one that lives, and never open to more users than
 * it is to be, however short.
 *
 * The socket is made in a directory of its own that nobody else may enter, gets its mode and group, and is then linked to its
 * name, which fails when the name is taken. Of several servers that find a dead one's name at once, one at a time looks and
 * acts.
 */
import { createHash } from "node:crypto";
import { chmod, chown, link, lstat, mkdtemp, realpath, rm, unlink } from "node:fs/promises";
import { connect, type Server } from "node:net";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { groupId } from "./group.ts";
import { claimName, type NameClaim } from "./name-claim.ts";

export interface UnixListen {
  readonly path: string;
  /** Who may connect, as for chmod. @default 0o600, with a group 0o660 */
  readonly mode?: number;
  /** Name or number of the group that the socket is to have. @default this process's */
  readonly group?: string | number;
}

/** sun_path has 108 bytes, of which one ends it (unix(7)). */
const LONGEST_PATH = 107;
const OWNER_ONLY = 0o600;
const OWNER_AND_GROUP = 0o660;
const CLAIM_TRIES = 200;
const CLAIM_PAUSE_MS = 10;

/**
 * Lets a server listen.
 *
 * @returns what takes the name away again, if it is still this server's
 * @throws {StreamdiskError} `in-use` when somebody answers at the path, `exists` for what is no socket, `permission`,
 *   `invalid-argument`
 */
export async function listenUnix(server: Server, options: UnixListen): Promise<() => Promise<void>> {
  const path = resolve(options.path);
  try {
    return await listenAt(server, path, options);
  } catch (error) {
    throw wrapSystemError(error, options.path, "listen at", { operation: "listen" });
  }
}

async function listenAt(server: Server, path: string, options: UnixListen): Promise<() => Promise<void>> {
  // A short prefix: this path is as limited as the other.
  const home = await mkdtemp(`${dirname(path)}/.`);
  const made = join(home, "s");
  try {
    const longest = Math.max(Buffer.byteLength(path), Buffer.byteLength(made));
    if (longest > LONGEST_PATH) {
      const message = `The path of a socket has at most ${LONGEST_PATH} bytes: '${path}' is ${longest - LONGEST_PATH} too long`;
      throw new StreamdiskError("invalid-argument", message, { node: path, operation: "listen" });
    }
    await new Promise<void>((done, failed) => {
      server.once("error", failed);
      server.listen(made, () => {
        server.off("error", failed);
        done();
      });
    });
    if (options.group !== undefined) await chown(made, -1, await groupId(options.group));
    await chmod(made, options.mode ?? (options.group === undefined ? OWNER_ONLY : OWNER_AND_GROUP));
    const claim = await claimPath(path);
    try {
      if (await isDead(path)) await unlink(path);
      await link(made, path);
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === "EEXIST" ? inUse(path) : error;
    } finally {
      await claim.release();
    }
    const { ino, dev } = await lstat(made);
    return async () => {
      const there = await lstat(path).catch(() => undefined);
      if (there?.ino === ino && there.dev === dev) await unlink(path).catch(() => {});
    };
  } catch (error) {
    server.close();
    throw error;
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

/** The right to take over a name, which others have for milliseconds. */
async function claimPath(path: string): Promise<NameClaim> {
  const key = createHash("sha256").update(join(await realpath(dirname(path)), basename(path)));
  const name = `socket ${key.digest("hex")}`;
  for (let tries = 0; tries < CLAIM_TRIES; tries++) {
    const claim = await claimName(name);
    if (claim !== undefined) return claim;
    await sleep(CLAIM_PAUSE_MS);
  }
  throw inUse(path);
}

/** Whether there is a socket that nobody listens to. @throws {StreamdiskError} when there is anything else */
async function isDead(path: string): Promise<boolean> {
  const there = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (there === undefined) return false;
  if (!there.isSocket()) {
    const message = `'${path}' is there already and is no socket: choose another path, or remove it`;
    throw new StreamdiskError("exists", message, { node: path, operation: "listen" });
  }
  if (await answers(path)) throw inUse(path);
  return true;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNREFUSED" || error.code === "ENOENT") resolve(false);
      // Its queue is full: somebody has it.
      else if (error.code === "EAGAIN") resolve(true);
      else reject(error);
    });
  });
}

function inUse(path: string): StreamdiskError {
  return new StreamdiskError("in-use", `Another server listens at '${path}'`, { node: path, operation: "listen" });
}
