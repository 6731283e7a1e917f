/**
 * What each option does (doc/proto.md, "Option types"): option haggling without its framing.
 *
 * With TLS configured it is the 'FORCEDTLS' mode: before TLS there is no option but STARTTLS and ABORT.
 */
import { StreamdiskError } from "../../errors/index.ts";
import { INFO, MAX_PAYLOAD, MAX_STRING, OPTION, REPLY } from "../protocol.ts";
import { type ContextName, contextId, listContexts, selectContexts } from "./contexts.ts";
import { type ExportTable, type NbdExport, transmissionFlags } from "./exports.ts";
import {
  decodeContextQuery,
  decodeInfoRequest,
  decodeName,
  encodeBlockSizes,
  encodeContext,
  encodeExportInfo,
  encodeExportNameReply,
  encodeListEntry,
  encodeOptionReply,
  encodeTextInfo,
} from "./option-codec.ts";
import type { Negotiated } from "./transmission.ts";

const PREFERRED_BLOCK = 4096;

/** What a connection can tell a client that haggles. */
export interface HagglingHost {
  readonly exports: ExportTable;
  /** Whether TLS is configured, which makes it required. */
  readonly tls: boolean;
  /** Why an export takes no client more; undefined when it does. */
  refusal(served: NbdExport): string | undefined;
  send(bytes: Buffer): void;
}

/** What follows from an option: the next one, or the end of the haggling. */
export type Outcome =
  | { readonly next: "option" | "end" | "tls" }
  | { readonly next: "transmission"; readonly negotiated: Negotiated };

/** An option that is answered with an error. */
class Refused extends Error {
  readonly type: number;

  constructor(type: number, message: string) {
    super(message);
    this.type = type;
  }
}

const NEXT: Outcome = { next: "option" };

export class Haggling {
  readonly #host: HagglingHost;
  readonly #encrypted: boolean;
  readonly #padded: boolean;
  #structured = false;
  /** What SET_META_CONTEXT has chosen, and for which export. */
  #chosen: { readonly exportName: string; readonly contexts: readonly ContextName[] } | undefined;

  /** @param padded whether the client wants zeroes behind the reply to EXPORT_NAME */
  constructor(host: HagglingHost, encrypted: boolean, padded: boolean) {
    this.#host = host;
    this.#encrypted = encrypted;
    this.#padded = padded;
  }

  /**
   * Answers an option.
   *
   * @throws {StreamdiskError} `protocol` when there is no answer to it but to end the connection
   */
  take(option: number, data: Buffer): Outcome {
    try {
      return this.#take(option, data);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.refuse(option, error.type, error.message);
      return NEXT;
    }
  }

  /** Answers with an error. */
  refuse(option: number, type: number, message: string): void {
    this.#reply(option, type, Buffer.from(message).subarray(0, MAX_STRING));
  }

  #take(option: number, data: Buffer): Outcome {
    if (option === OPTION.ABORT) {
      this.#reply(option, REPLY.ACK);
      return { next: "end" };
    }
    if (this.#host.tls && !this.#encrypted && option !== OPTION.STARTTLS) {
      if (option === OPTION.EXPORT_NAME) throw turnedAway("it did not begin TLS");
      throw new Refused(REPLY.ERR_TLS_REQD, "TLS is required");
    }
    switch (option) {
      case OPTION.EXPORT_NAME:
        return this.#exportName(data);
      case OPTION.LIST:
        return this.#list(data);
      case OPTION.STARTTLS:
        return this.#startTls(data);
      case OPTION.INFO:
        return this.#info(data);
      case OPTION.GO:
        return this.#go(data);
      case OPTION.STRUCTURED_REPLY:
        mustBeEmpty(data);
        this.#structured = true;
        this.#reply(option, REPLY.ACK);
        return NEXT;
      case OPTION.LIST_META_CONTEXT:
        return this.#listContexts(data);
      case OPTION.SET_META_CONTEXT:
        return this.#setContexts(data);
      default:
        throw new Refused(REPLY.ERR_UNSUP, `Option ${option} is not known`);
    }
  }

  #list(data: Buffer): Outcome {
    mustBeEmpty(data);
    for (const { name, description = "" } of this.#host.exports) {
      this.#reply(OPTION.LIST, REPLY.SERVER, encodeListEntry(name, description));
    }
    this.#reply(OPTION.LIST, REPLY.ACK);
    return NEXT;
  }

  #startTls(data: Buffer): Outcome {
    mustBeEmpty(data);
    if (this.#encrypted) throw new Refused(REPLY.ERR_INVALID, "TLS has begun already");
    if (!this.#host.tls) throw new Refused(REPLY.ERR_POLICY, "This server has no TLS");
    this.#reply(OPTION.STARTTLS, REPLY.ACK);
    return { next: "tls" };
  }

  #info(data: Buffer): Outcome {
    const { exportName, requests } = decodeInfoRequest(data) ?? malformed();
    const served = this.#find(exportName);
    this.#tell(OPTION.INFO, served, served.node.length, requests);
    return NEXT;
  }

  #go(data: Buffer): Outcome {
    const { exportName, requests } = decodeInfoRequest(data) ?? malformed();
    const served = this.#find(exportName);
    const refusal = this.#host.refusal(served);
    if (refusal !== undefined) throw new Refused(REPLY.ERR_POLICY, refusal);
    const { length } = served.node;
    this.#tell(OPTION.GO, served, length, requests);
    return this.#transmission(served, length);
  }

  #tell(option: number, served: NbdExport, length: number, requests: readonly number[]): void {
    this.#reply(option, REPLY.INFO, encodeExportInfo(length, transmissionFlags(served, this.#structured)));
    if (requests.includes(INFO.NAME)) this.#reply(option, REPLY.INFO, encodeTextInfo(INFO.NAME, served.name));
    if (requests.includes(INFO.DESCRIPTION) && served.description !== undefined) {
      this.#reply(option, REPLY.INFO, encodeTextInfo(INFO.DESCRIPTION, served.description));
    }
    if (requests.includes(INFO.BLOCK_SIZE)) {
      this.#reply(option, REPLY.INFO, encodeBlockSizes(1, PREFERRED_BLOCK, MAX_PAYLOAD));
    }
    this.#reply(option, REPLY.ACK);
  }

  /** It has no reply but the export: whoever can't have it is cut off. */
  #exportName(data: Buffer): Outcome {
    const name = decodeName(data);
    const served = name === undefined ? undefined : this.#host.exports.get(name);
    if (served === undefined) throw turnedAway(`it wants an export '${name ?? ""}' that is not there`);
    const refusal = this.#host.refusal(served);
    if (refusal !== undefined) throw turnedAway(refusal);
    const { length } = served.node;
    this.#host.send(encodeExportNameReply(length, transmissionFlags(served, this.#structured), this.#padded));
    return this.#transmission(served, length);
  }

  #transmission(served: NbdExport, length: number): Outcome {
    const contexts = this.#chosen?.exportName === served.name ? this.#chosen.contexts : [];
    return { next: "transmission", negotiated: { served, length, structured: this.#structured, contexts } };
  }

  #listContexts(data: Buffer): Outcome {
    for (const name of listContexts(this.#query(data).queries)) {
      this.#reply(OPTION.LIST_META_CONTEXT, REPLY.META_CONTEXT, encodeContext(0, name));
    }
    this.#reply(OPTION.LIST_META_CONTEXT, REPLY.ACK);
    return NEXT;
  }

  #setContexts(data: Buffer): Outcome {
    this.#chosen = undefined;
    const { exportName, queries } = this.#query(data);
    const contexts = selectContexts(queries);
    for (const name of contexts) {
      this.#reply(OPTION.SET_META_CONTEXT, REPLY.META_CONTEXT, encodeContext(contextId(name), name));
    }
    this.#reply(OPTION.SET_META_CONTEXT, REPLY.ACK);
    this.#chosen = { exportName, contexts };
    return NEXT;
  }

  #query(data: Buffer): { readonly exportName: string; readonly queries: readonly string[] } {
    if (!this.#structured) throw new Refused(REPLY.ERR_INVALID, "Negotiate structured replies first");
    const query = decodeContextQuery(data) ?? malformed();
    this.#find(query.exportName);
    return query;
  }

  #find(name: string): NbdExport {
    const served = this.#host.exports.get(name);
    if (served === undefined) throw new Refused(REPLY.ERR_UNKNOWN, `There is no export '${name}'`);
    return served;
  }

  #reply(option: number, type: number, data?: Buffer): void {
    this.#host.send(encodeOptionReply(option, type, data));
  }
}

function mustBeEmpty(data: Buffer): void {
  if (data.length > 0) throw new Refused(REPLY.ERR_INVALID, "This option has no data");
}

function malformed(): never {
  throw new Refused(REPLY.ERR_INVALID, "The data of this option are malformed");
}

/** A client with which there can be no understanding. */
export function turnedAway(why: string): StreamdiskError {
  return new StreamdiskError("protocol", `A client was turned away: ${why}`);
}
