/** What a server offers, by name. */
import type { GuestNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { FLAG, MAX_STRING } from "../protocol.ts";

/** What one request is carried out on, in as many calls as it takes. */
export type RequestNode = Pick<GuestNode, "read" | "write" | "writeZeroes" | "discard" | "flush" | "cache">;

/** A node that clients may open by a name. */
export interface NbdExport {
  /** Empty for the default export. */
  readonly name: string;
  /** For people. */
  readonly description?: string;
  readonly readOnly: boolean;
  /** How many clients' connections it takes at a time. @default no limit of its own */
  readonly maxConnections?: number;
  /** Stays its owner's to close, after the export has been removed. */
  readonly node: GuestNode;
  /**
   * Called for each connection; what it returns is called for each of its requests. For a node that must know which requests are one
   * client's, and which calls one request's. Absent: all is done on `node` itself.
   */
  readonly connect?: () => () => RequestNode;
}

/** The exports of a server, in the order in which they came. */
export class ExportTable {
  readonly #byName = new Map<string, NbdExport>();

  constructor(exports: readonly NbdExport[]) {
    for (const added of exports) this.add(added);
  }

  /** @throws {StreamdiskError} `exists`; `invalid-argument` for a name or description that the protocol has no room for */
  add(added: NbdExport): void {
    const { name, description = "" } = added;
    if (this.#byName.has(name)) {
      throw new StreamdiskError("exists", `There is an export '${name}' already`, { node: name });
    }
    if (!isString(name) || !isString(description)) {
      const message = `Export '${name.slice(0, 64)}' has a name or description with a NUL, or of more than ${MAX_STRING} bytes`;
      throw new StreamdiskError("invalid-argument", message);
    }
    this.#byName.set(name, added);
  }

  get(name: string): NbdExport | undefined {
    return this.#byName.get(name);
  }

  delete(name: string): boolean {
    return this.#byName.delete(name);
  }

  [Symbol.iterator](): IterableIterator<NbdExport> {
    return this.#byName.values();
  }
}

function isString(text: string): boolean {
  return Buffer.byteLength(text) <= MAX_STRING && !text.includes("\0");
}

/** Whether nothing may be changed through an export. */
export function isReadOnly(served: NbdExport): boolean {
  return served.readOnly || served.node.readOnly;
}

/**
 * The transmission flags. All connections end in the same node, so a flush on any of them covers what was acknowledged on all.
 *
 * @param structured whether the client has negotiated structured replies
 */
export function transmissionFlags(served: NbdExport, structured: boolean): number {
  let flags = FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.CAN_MULTI_CONN;
  if (isReadOnly(served)) flags |= FLAG.READ_ONLY;
  else flags |= FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES | FLAG.SEND_FAST_ZERO;
  if (structured) flags |= FLAG.SEND_DF;
  if (served.node.cache !== undefined) flags |= FLAG.SEND_CACHE;
  return flags;
}
