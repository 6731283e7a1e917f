/**
 * The negotiation ("Handshake phase"), from the client's side: the greeting, TLS first when it is wanted, structured replies,
 * metadata contexts, and the export by GO; or by EXPORT_NAME with a server that knows nothing better.
 *
 * With TLS wanted nothing but STARTTLS is said in plain text, and whatever the server answers but yes ends the connection.
 */
import type { ConnectionOptions } from "node:tls";
import { StreamdiskError } from "../../errors/index.ts";
import {
  CONTEXT_ALLOCATION,
  CONTEXT_DEPTH,
  EXPORT_NAME_PADDING,
  EXPORT_NAME_REPLY_BYTES,
  GREETING_BYTES,
  HANDSHAKE,
  INFO,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  OLDSTYLE_MAGIC_HIGH,
  OLDSTYLE_MAGIC_LOW,
  OPTION,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  REPLY,
} from "../protocol.ts";
import { type ExportFacts, exportInfo, type NbdExportInfo, takeInfo, takeSizeAndFlags } from "./export-info.ts";
import type { HandshakeChannel, OptionEnd } from "./handshake-channel.ts";
import { optionError } from "./option-error.ts";
import {
  decodeContext,
  decodeListEntry,
  encodeContextQuery,
  encodeInfoRequest,
  encodeOption,
  type NbdListEntry,
} from "./options.ts";

/** The contexts that are asked for, unless the caller knows better. */
const CONTEXTS: readonly string[] = [CONTEXT_ALLOCATION, CONTEXT_DEPTH];

/** What a greeting settled. */
export interface Greeting {
  /** Whether anything but EXPORT_NAME is understood. */
  readonly fixed: boolean;
  readonly noZeroes: boolean;
  readonly tls: boolean;
}

/** What the transmission phase needs. */
export interface Negotiated {
  readonly info: NbdExportInfo;
  /** Metadata contexts by the number that the server gave them. */
  readonly contexts: ReadonlyMap<number, string>;
}

/**
 * Takes the server's greeting, answers it, and encrypts the connection when `tls` is given.
 *
 * @throws {StreamdiskError} `unsupported` for the oldstyle handshake, `refused` when TLS can't be had, `protocol`
 */
export async function greet(channel: HandshakeChannel, tls: ConnectionOptions | undefined): Promise<Greeting> {
  const { node } = channel;
  const greeting = await channel.receive(GREETING_BYTES);
  const word = (at: number): number => greeting.readUInt32BE(at);
  if (word(0) !== NBD_MAGIC_HIGH || word(4) !== NBD_MAGIC_LOW) {
    const message = `'${node}' is no NBD server: it greets with '${greeting.toString("hex", 0, 8)}'`;
    throw new StreamdiskError("protocol", message, { node, operation: "connect" });
  }
  if (word(8) === OLDSTYLE_MAGIC_HIGH && word(12) === OLDSTYLE_MAGIC_LOW) {
    const message = `'${node}' speaks only the oldstyle handshake of NBD, which is obsolete: start the server in newstyle`;
    throw new StreamdiskError("unsupported", message, { node, operation: "connect" });
  }
  if (word(8) !== OPTION_MAGIC_HIGH || word(12) !== OPTION_MAGIC_LOW) {
    throw channel.violation(`'${greeting.toString("hex", 8, 16)}' in its greeting`);
  }
  const flags = greeting.readUInt16BE(16);
  const known = flags & (HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES);
  const answer = Buffer.alloc(4);
  answer.writeUInt32BE(known, 0);
  channel.send(answer);
  const fixed = (known & HANDSHAKE.FIXED_NEWSTYLE) !== 0;
  if (tls !== undefined) await encrypt(channel, tls, fixed);
  return { fixed, noZeroes: (known & HANDSHAKE.NO_ZEROES) !== 0, tls: tls !== undefined };
}

async function encrypt(channel: HandshakeChannel, tls: ConnectionOptions, fixed: boolean): Promise<void> {
  const end: OptionEnd = fixed
    ? await channel.ask(OPTION.STARTTLS, undefined, (type) => {
        throw channel.violation(`a reply of type ${type} to STARTTLS`);
      })
    : { type: REPLY.ERR_UNSUP, text: "" };
  if (end.type === REPLY.ACK) return channel.startTls(tls);
  const { node } = channel;
  const why = end.text === "" ? "" : ` (${end.text})`;
  const message = `'${node}' does not offer TLS${why}, and nothing is sent to it in plain text: use an nbd:// URI if that will do`;
  throw new StreamdiskError("refused", message, { node, operation: "connect" });
}

/**
 * Opens an export: the transmission phase begins when this resolves.
 *
 * @throws {StreamdiskError} `not-found`, `refused`, `protocol`...: what the server answers
 */
export async function openExport(
  channel: HandshakeChannel,
  greeting: Greeting,
  exportName: string,
  wanted: readonly string[] = CONTEXTS,
): Promise<Negotiated> {
  if (!greeting.fixed) return openByName(channel, greeting, exportName, false, new Map());
  const structured = await agreeOnStructuredReplies(channel, exportName);
  const contexts = structured ? await selectContexts(channel, exportName, wanted) : new Map<number, string>();
  const facts: ExportFacts = { exportName };
  const end = await inquire(channel, OPTION.GO, facts);
  // "clients SHOULD be prepared to also handle NBD_REP_ERR_UNSUP by falling back to using NBD_OPT_EXPORT_NAME"
  if (end.type === REPLY.ERR_UNSUP) return openByName(channel, greeting, exportName, structured, contexts);
  if (end.type !== REPLY.ACK) throw optionError(channel.node, exportName, end);
  return negotiated(channel, facts, greeting, structured, contexts);
}

/**
 * Describes an export without opening it.
 *
 * @returns undefined when the server can't, being too old
 */
export async function inquireExport(
  channel: HandshakeChannel,
  greeting: Greeting,
  exportName: string,
): Promise<NbdExportInfo | undefined> {
  if (!greeting.fixed) return undefined;
  const structured = await agreeOnStructuredReplies(channel, exportName);
  const facts: ExportFacts = { exportName };
  const end = await inquire(channel, OPTION.INFO, facts);
  if (end.type === REPLY.ERR_UNSUP) return undefined;
  if (end.type !== REPLY.ACK) throw optionError(channel.node, exportName, end);
  const contexts = new Map<number, string>();
  if (structured) {
    // None asked for by name are all that there are; their numbers mean nothing here.
    await channel.ask(OPTION.LIST_META_CONTEXT, encodeContextQuery(exportName, []), (type, payload) => {
      const context = type === REPLY.META_CONTEXT ? decodeContext(payload) : undefined;
      if (context !== undefined) contexts.set(contexts.size, context.name);
    });
  }
  channel.send(encodeOption(OPTION.ABORT));
  return negotiated(channel, facts, greeting, structured, contexts).info;
}

/** @throws {StreamdiskError} `unsupported`, `refused` where the server doesn't say what it has; `protocol` */
export async function listExports(channel: HandshakeChannel, greeting: Greeting): Promise<NbdListEntry[]> {
  const entries: NbdListEntry[] = [];
  const end = greeting.fixed
    ? await channel.ask(OPTION.LIST, undefined, (type, payload) => {
        const entry = type === REPLY.SERVER ? decodeListEntry(payload) : undefined;
        if (entry === undefined) throw channel.violation(`a reply of type ${type} and ${payload.length} bytes to LIST`);
        entries.push(entry);
      })
    : { type: REPLY.ERR_UNSUP, text: "" };
  if (end.type !== REPLY.ACK) throw optionError(channel.node, undefined, end);
  channel.send(encodeOption(OPTION.ABORT));
  return entries;
}

async function agreeOnStructuredReplies(channel: HandshakeChannel, exportName: string): Promise<boolean> {
  const end = await channel.ask(OPTION.STRUCTURED_REPLY, undefined, (type) => {
    throw channel.violation(`a reply of type ${type} to STRUCTURED_REPLY`);
  });
  // A server that insists on TLS says so at its first option.
  if (end.type === REPLY.ERR_TLS_REQD) throw optionError(channel.node, exportName, end);
  return end.type === REPLY.ACK;
}

async function selectContexts(
  channel: HandshakeChannel,
  exportName: string,
  wanted: readonly string[],
): Promise<Map<number, string>> {
  const contexts = new Map<number, string>();
  const query = encodeContextQuery(exportName, wanted);
  const end = await channel.ask(OPTION.SET_META_CONTEXT, query, (type, payload) => {
    const context = type === REPLY.META_CONTEXT ? decodeContext(payload) : undefined;
    if (context === undefined)
      throw channel.violation(`a reply of type ${type} and ${payload.length} bytes to SET_META_CONTEXT`);
    if (!wanted.includes(context.name)) throw channel.violation("a metadata context that was not asked for");
    if (contexts.has(context.id) || [...contexts.values()].includes(context.name)) {
      throw channel.violation(`the metadata context '${context.name}' or its number ${context.id} twice`);
    }
    contexts.set(context.id, context.name);
  });
  // "If an error is returned, the client MUST disregard any context replies". That the export is not there, GO will say.
  return end.type === REPLY.ACK ? contexts : new Map();
}

async function inquire(channel: HandshakeChannel, option: number, facts: ExportFacts): Promise<OptionEnd> {
  const request = encodeInfoRequest(facts.exportName, [INFO.BLOCK_SIZE, INFO.NAME, INFO.DESCRIPTION]);
  const end = await channel.ask(option, request, (type, payload) => {
    if (type !== REPLY.INFO) throw channel.violation(`a reply of type ${type} to option ${option}`);
    takeInfo(facts, payload, channel.node);
  });
  if (end.type === REPLY.ACK && facts.length === undefined) throw channel.violation("no size of the export");
  return end;
}

async function openByName(
  channel: HandshakeChannel,
  greeting: Greeting,
  exportName: string,
  structured: boolean,
  contexts: ReadonlyMap<number, string>,
): Promise<Negotiated> {
  channel.send(encodeOption(OPTION.EXPORT_NAME, Buffer.from(exportName)));
  let reply: Buffer;
  try {
    reply = await channel.receive(EXPORT_NAME_REPLY_BYTES + (greeting.noZeroes ? 0 : EXPORT_NAME_PADDING));
  } catch (error) {
    if (!(error instanceof StreamdiskError) || error.code !== "source-lost") throw error;
    const message = `${error.message}, when it was asked for the export '${exportName}': it may have none of that name`;
    throw new StreamdiskError("source-lost", message, error.context, error);
  }
  const facts: ExportFacts = { exportName };
  takeSizeAndFlags(facts, new DataView(reply.buffer, reply.byteOffset, EXPORT_NAME_REPLY_BYTES), channel.node);
  return negotiated(channel, facts, greeting, structured, contexts);
}

function negotiated(
  channel: HandshakeChannel,
  facts: ExportFacts,
  { tls }: Greeting,
  structuredReplies: boolean,
  contexts: ReadonlyMap<number, string>,
): Negotiated {
  const { length, flags } = facts;
  if (length === undefined || flags === undefined) throw channel.violation("no size of the export");
  const info = exportInfo({ ...facts, length, flags }, { structuredReplies, contexts: [...contexts.values()], tls });
  return { info, contexts };
}
