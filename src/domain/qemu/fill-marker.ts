/**
 * A sign in a QEMU that its NBD server is ours, and of which process: an object that does nothing (a list of one name, which nobody is
 * asked for). QEMU does not tell who has started its server, and a process that was killed may have left one without exports. The sign
 * stands from before the server is started until after it is stopped, and goes with the QEMU that it was put into.
 *
 * It holds a name that its process claims while it lives: who can claim it knows that the process is gone. A server that a living one
 * uses must not be stopped: QEMU 7.2 hangs when a client knocks meanwhile.
 */
import { randomBytes } from "node:crypto";
import { claimName, type NameClaim } from "../../host/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import { unlessRefused } from "../qmp/qmp-error.ts";

const MARKER = "streamdisk-fill";
const PATH = `/objects/${MARKER}`;

/** Where names can't be claimed, nobody is taken for alive. */
const NOTHING: NameClaim = { release: async () => {} };

/** Who has put it there: this process (by this object), one that is gone, or one that lives. */
export type MarkerOwner = "nobody" | "us" | "gone" | "other";

export class FillMarker {
  readonly #qmp: QmpClient;
  readonly #id = randomBytes(8).toString("hex");
  #claim: NameClaim | undefined;

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
  }

  async owner(signal?: AbortSignal): Promise<MarkerOwner> {
    if (!(await isMarked(this.#qmp, signal))) return "nobody";
    const id = await this.#qmp.execute("qom-get", { path: PATH, property: "identity" }, { signal });
    if (id === this.#id) return "us";
    const claim = await claimName(nameOf(id)).catch(() => NOTHING);
    await claim?.release();
    return claim === undefined ? "other" : "gone";
  }

  /** In the place of one that is gone. A QEMU that has no such objects has to do without. */
  async set(signal?: AbortSignal): Promise<void> {
    this.#claim ??= await claimName(nameOf(this.#id)).catch(() => NOTHING);
    await unlessRefused(this.#qmp.execute("object-del", { id: MARKER }, { signal }));
    const object = { "qom-type": "authz-simple", id: MARKER, identity: this.#id } as const;
    await unlessRefused(this.#qmp.execute("object-add", object, { signal }));
  }

  async remove(): Promise<void> {
    await unlessRefused(this.#qmp.execute("object-del", { id: MARKER }));
    await this.abandon();
  }

  /** What is left of it in QEMU counts as that of one who is gone. */
  async abandon(): Promise<void> {
    await this.#claim?.release();
    this.#claim = undefined;
  }
}

function nameOf(id: string): string {
  return `fill/${id.slice(0, 32)}`;
}

export async function isMarked(qmp: QmpClient, signal?: AbortSignal): Promise<boolean> {
  return (await qmp.execute("qom-list", { path: "/objects" }, { signal })).includes(MARKER);
}
