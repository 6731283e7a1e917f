/**
 * A QEMU's NBD server, for as long as there are exports of ours on it: an overlay node is filled through a read-only export of it.
 * A QEMU has one server. Disks that are filled at the same time share ours; when somebody else has it running, it is theirs.
 *
 * QEMU makes its socket itself, in a directory of ours that nobody else may enter. A QEMU that runs as another user is given that directory,
 * which only root can do.
 *
 * Exports carry a prefix and the server a marker, by which those of a process that died are known and taken away. An export is deleted at once and gone when the
 * last request on it has been answered; the server is stopped only then, since QEMU's monitor would hang until it is.
 */
import { randomBytes } from "node:crypto";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { CONTEXT_DEPTH, connectNbd, formatNbdUri, type NbdNode } from "../../nbd/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import { qmpFailure, unlessRefused } from "../qmp/qmp-error.ts";
import { FillMarker } from "./fill-marker.ts";
import type { Overlay } from "./locate-overlay.ts";
import { type QemuUser, qemuUser } from "./qemu-user.ts";

export const EXPORT_PREFIX = "streamdisk-fill-";

/** How long a deleted export is waited for: a request on it may wait for a source. */
const GONE_MS = 5000;
const POLL_MS = 100;

export interface FillServerOptions {
  /** Where the socket is made, in a directory of mode 0700. QEMU must be able to enter it. @default the system's for temporary files */
  readonly directory?: string | undefined;
  /** @default the system's */
  readonly clock?: Clock | undefined;
}

/** An export of an overlay, connected to. */
export interface FillExport {
  readonly id: string;
  readonly node: NbdNode;
  /** Takes it out of QEMU again; the server too, when it was the last. */
  remove(): Promise<void>;
}

export class FillServer {
  readonly #qmp: QmpClient;
  readonly #options: FillServerOptions;
  readonly #marker: FillMarker;
  readonly #exports = new Set<string>();
  #directory: string | undefined;
  /** Whether the server runs still because an export of ours would not go. */
  #left = false;
  /** Starting and stopping come one at a time. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(qmp: QmpClient, options: FillServerOptions = {}) {
    this.#qmp = qmp;
    this.#marker = new FillMarker(qmp);
    this.#options = options;
  }

  /**
   * Exports an overlay and connects to it.
   *
   * @returns a sentence that says why not, when QEMU can't serve it
   */
  async export(overlay: Pick<Overlay, "node">, signal?: AbortSignal): Promise<FillExport | string> {
    const id = `${EXPORT_PREFIX}${randomBytes(8).toString("hex")}`;
    const started = await this.#inTurn(() => this.#start(id, overlay, signal));
    if (started !== undefined) return started;
    try {
      const uri = formatNbdUri({ unix: true, socket: this.#socket, exportName: id, tls: false });
      const node = await connectNbd(uri, {
        readOnly: true,
        contexts: [CONTEXT_DEPTH],
        signal,
        clock: this.#options.clock,
      });
      const lacks = missingAbility(node);
      if (lacks === undefined) return { id, node, remove: () => this.#remove(id, node) };
      await this.#remove(id, node);
      return lacks;
    } catch (error) {
      const socket = this.#socket;
      await this.#remove(id, undefined);
      if (!(error instanceof StreamdiskError) || error.code !== "permission") throw error;
      return `QEMU has made its socket '${socket}' as another user, and it can't be connected to: run as that user, or as root`;
    }
  }

  /** What could not be taken out of QEMU may be by who comes next. */
  abandon(): Promise<void> {
    return this.#marker.abandon();
  }

  get #socket(): string {
    return join(this.#directory!, "nbd");
  }

  async #start(
    id: string,
    overlay: Pick<Overlay, "node">,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    if (this.#exports.size === 0) {
      const taken = await this.#startServer(signal).catch(async (error) => {
        await this.#removeDirectory();
        throw error;
      });
      if (taken !== undefined) return taken;
    }
    this.#exports.add(id);
    try {
      const args = { type: "nbd", id, "node-name": overlay.node, name: id, writable: false } as const;
      // Without the signal: who does not wait for the answer would not know whether there is an export.
      await this.#qmp.execute("block-export-add", { ...args, "allocation-depth": true });
      return undefined;
    } catch (error) {
      // It may be there all the same, when only the answer was lost. Why it failed counts.
      await whileAlive(() => this.#delete(id)).catch(() => {});
      await whileAlive(() => this.#forget(id)).catch(() => {});
      throw error;
    }
  }

  /** @returns why not, when the server is somebody else's, or can't make its socket */
  async #startServer(signal: AbortSignal | undefined): Promise<string | undefined> {
    const owner = await this.#marker.owner(signal);
    if (owner === "other") return "another process of streamdisk uses QEMU's NBD server, and a QEMU has only one";
    const user = await qemuUser(this.#qmp, signal);
    await this.#makeDirectory(user);
    await this.#marker.set(signal);
    const addr = { type: "unix", data: { path: this.#socket } } as const;
    for (let first = true; ; first = false) {
      try {
        await this.#qmp.execute("nbd-server-start", { addr });
        this.#left = false;
        return undefined;
      } catch (error) {
        const said = qmpFailure(error)?.desc;
        if (said === undefined) throw error;
        const isTaken = /already running/.test(said);
        if (isTaken && first && (await this.#takeOver(owner !== "nobody", signal))) continue;
        const socket = this.#socket;
        await this.#removeDirectory();
        await this.#marker.remove();
        return isTaken
          ? "QEMU's NBD server is in use by somebody else, and a QEMU has only one"
          : `QEMU can't make the socket '${socket}' for it: ${said}${whoseFault(said, user)}`;
      }
    }
  }

  /** Makes the directory of the socket, where QEMU can make one. */
  async #makeDirectory(user: QemuUser | undefined): Promise<void> {
    this.#directory ??= await mkdtemp(join(this.#options.directory ?? tmpdir(), EXPORT_PREFIX));
    if (user === undefined || user.uid === process.geteuid?.() || process.geteuid?.() !== 0) return;
    // A root that may not do it is told by QEMU's refusal.
    await chown(this.#directory, user.uid, user.gid).catch(() => {});
  }

  /** Stops a server that was left running, by this process or one before it. @returns false when it is not ours to stop */
  async #takeOver(isMarked: boolean, signal: AbortSignal | undefined): Promise<boolean> {
    const exports = await this.#qmp.execute("query-block-exports", {}, { signal });
    if (exports.length === 0 && !this.#left && !isMarked) return false;
    if (!exports.every(({ id }) => id.startsWith(EXPORT_PREFIX))) return false;
    for (const { id } of exports) await this.#delete(id);
    await this.#qmp.execute("nbd-server-stop", {});
    return true;
  }

  async #remove(id: string, node: NbdNode | undefined): Promise<void> {
    try {
      // QEMU ends the connection, also when it has requests on it that a source does not answer.
      await whileAlive(() => this.#delete(id));
    } finally {
      await node?.close();
      await this.#inTurn(() => whileAlive(() => this.#forget(id)));
    }
  }

  async #delete(id: string): Promise<void> {
    const { clock = systemClock } = this.#options;
    // Somebody may have deleted it.
    await unlessRefused(this.#qmp.execute("block-export-del", { id, mode: "hard" }));
    const until = clock.now() + GONE_MS;
    while ((await this.#qmp.execute("query-block-exports", {})).some((one) => one.id === id)) {
      if (clock.now() >= until) {
        const message =
          `QEMU still has a request on its export '${id}' that waits for a source: the export goes away when it is answered, ` +
          "and the NBD server is stopped with the next stream";
        throw new StreamdiskError("in-use", message, { node: this.#qmp.name });
      }
      await this.#qmp.change(POLL_MS);
    }
  }

  /** Stops the server with the last export. */
  async #forget(id: string): Promise<void> {
    this.#exports.delete(id);
    if (this.#exports.size > 0) return;
    await this.#removeDirectory();
    const left = await this.#qmp.execute("query-block-exports", {});
    this.#left = left.length > 0;
    if (this.#left) return;
    // Somebody may have stopped it.
    await unlessRefused(this.#qmp.execute("nbd-server-stop", {}));
    await this.#marker.remove();
  }

  async #removeDirectory(): Promise<void> {
    const directory = this.#directory;
    this.#directory = undefined;
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => {});
    return result;
  }
}

/** Why QEMU may have been denied to make its socket. */
function whoseFault(said: string, user: QemuUser | undefined): string {
  if (!/denied|not permitted/i.test(said)) return "";
  if (user === undefined) return ". It may run as another user";
  const own = process.geteuid?.();
  if (own !== 0 && own !== user.uid) {
    return `. It runs as the user ${user.uid}: only root can give it a directory that both can use`;
  }
  return `. It runs as the user ${user.uid}, who may have no way there, or a profile of AppArmor or SELinux forbids it`;
}

/** Does what is idempotent, again if the connection has ended meanwhile; of a QEMU that has ended there is nothing to take away. */
async function whileAlive(work: () => Promise<void>): Promise<void> {
  for (let first = true; ; first = false) {
    try {
      return await work();
    } catch (error) {
      const gone = error instanceof StreamdiskError && (error.code === "shutdown" || error.code === "not-found");
      if (!gone) throw error;
      if (!first) return;
    }
  }
}

/** Why an export can't be filled through. */
function missingAbility({ info }: NbdNode): string | undefined {
  if (!info.canCache) return "this QEMU does not take NBD_CMD_CACHE";
  if (!info.canFlush) return "this QEMU does not take a flush of a read-only export";
  return info.contexts.includes(CONTEXT_DEPTH) ? undefined : "this QEMU does not tell what is allocated where";
}
