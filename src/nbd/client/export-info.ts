/** What a server says of an export while it is being opened, and which of it can't be true. */
import { StreamdiskError } from "../../errors/index.ts";
import { FLAG, getUint64, INFO, LARGEST_MINIMUM_BLOCK, MAX_PAYLOAD } from "../protocol.ts";
import { plainText } from "./server-error.ts";

/** An export, as its server describes it. Sizes are bytes. */
export interface NbdExportInfo {
  /** By the server's own name for it, where it has another than the one that was asked for. */
  readonly exportName: string;
  readonly description: string | undefined;
  readonly length: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  readonly canFastZero: boolean;
  readonly canCache: boolean;
  readonly canDontFragment: boolean;
  /** Whether a flush on one connection covers what was written on the others. */
  readonly canMultiConn: boolean;
  readonly rotational: boolean;
  /** Requests begin and end at multiples of it. */
  readonly minimumBlock: number;
  /** Best for speed. */
  readonly preferredBlock: number;
  /** The most that one READ or WRITE moves. */
  readonly maximumPayload: number;
  readonly structuredReplies: boolean;
  /** The metadata contexts in use; of a mere inquiry, all that are offered. */
  readonly contexts: readonly string[];
  readonly tls: boolean;
}

/** What it consists of, as the pieces come in. */
export interface ExportFacts {
  exportName: string;
  description?: string;
  /** Absent until the server has said it. */
  length?: number;
  flags?: number;
  minimumBlock?: number;
  preferredBlock?: number;
  maximumPayload?: number;
}

/** @throws {StreamdiskError} `protocol`, `unsupported` for a size beyond 2^53 */
export function takeSizeAndFlags(facts: ExportFacts, payload: DataView, node: string): void {
  facts.length = getUint64(payload, 0);
  const flags = payload.getUint16(8);
  facts.flags = flags & FLAG.HAS_FLAGS ? flags : 0;
  if (Number.isSafeInteger(facts.length)) return;
  const message = `'${node}' has an export of ${facts.length} bytes, more than can be addressed here`;
  throw new StreamdiskError("unsupported", message, { node });
}

/**
 * Takes one information reply to INFO or GO.
 *
 * @throws {StreamdiskError} `protocol` for one that is malformed or impossible
 */
export function takeInfo(facts: ExportFacts, payload: Buffer, node: string): void {
  if (payload.length < 2) throw impossible(node, "an information reply without a type");
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const type = view.getUint16(0);
  if (type === INFO.EXPORT) {
    if (payload.length !== 12) throw impossible(node, `an export's size and flags in ${payload.length} bytes`);
    takeSizeAndFlags(facts, new DataView(payload.buffer, payload.byteOffset + 2, 10), node);
  } else if (type === INFO.BLOCK_SIZE) {
    if (payload.length !== 14) throw impossible(node, `block sizes in ${payload.length} bytes`);
    takeBlockSizes(facts, view, node);
  } else if (type === INFO.NAME) {
    facts.exportName = payload.toString("utf8", 2);
  } else if (type === INFO.DESCRIPTION) {
    facts.description = plainText(payload.subarray(2));
  }
}

function takeBlockSizes(facts: ExportFacts, view: DataView, node: string): void {
  const [minimum, preferred, maximum] = [view.getUint32(2), view.getUint32(6), view.getUint32(10)];
  const said = `block sizes of ${minimum} (minimum), ${preferred} (preferred) and ${maximum} (maximum)`;
  if (!isPowerOfTwo(minimum) || minimum > LARGEST_MINIMUM_BLOCK) throw impossible(node, said);
  if (!isPowerOfTwo(preferred) || preferred < minimum || maximum < preferred) throw impossible(node, said);
  facts.minimumBlock = minimum;
  facts.preferredBlock = preferred;
  facts.maximumPayload = maximum;
}

/** Puts the facts together; what the server has not said has the protocol's default ("Size constraints"). */
export function exportInfo(
  facts: ExportFacts & { length: number; flags: number },
  rest: Pick<NbdExportInfo, "structuredReplies" | "contexts" | "tls">,
): NbdExportInfo {
  const has = (flag: number): boolean => (facts.flags & flag) !== 0;
  const minimumBlock = facts.minimumBlock ?? 1;
  const maximumPayload = Math.min(facts.maximumPayload ?? MAX_PAYLOAD, MAX_PAYLOAD);
  return {
    exportName: facts.exportName,
    description: facts.description,
    length: facts.length,
    readOnly: has(FLAG.READ_ONLY),
    canFlush: has(FLAG.SEND_FLUSH),
    canFua: has(FLAG.SEND_FUA),
    canTrim: has(FLAG.SEND_TRIM),
    canWriteZeroes: has(FLAG.SEND_WRITE_ZEROES),
    canFastZero: has(FLAG.SEND_FAST_ZERO),
    canCache: has(FLAG.SEND_CACHE),
    canDontFragment: has(FLAG.SEND_DF),
    canMultiConn: has(FLAG.CAN_MULTI_CONN),
    rotational: has(FLAG.ROTATIONAL),
    minimumBlock,
    preferredBlock: facts.preferredBlock ?? 4096,
    maximumPayload: maximumPayload - (maximumPayload % minimumBlock),
    ...rest,
  };
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

function impossible(node: string, what: string): StreamdiskError {
  return new StreamdiskError("protocol", `'${node}' breaks the NBD protocol: it sent ${what}`, { node });
}
