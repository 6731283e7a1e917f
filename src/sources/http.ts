/**
 * An object on an HTTP server as a source: any server that answers range requests will do.
 *
 * The length comes with the reply to a GET of the first byte, not from HEAD: a presigned URL is good for GET alone. That reply also pins
 * the version (length, ETag, Last-Modified); every later one is held against it, and a reply of another version is refused before a
 * byte of it is used. Nothing is ever mixed.
 *
 * A redirection is followed once and remembered; when what it led to is refused or gone it is asked for anew, since such addresses
 * expire. A failure that may pass is tried again a few times, with growing intervals; then the source is lost, and what
 * that means is for others to say (`filters/hold`).
 */
import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Agent, type Dispatcher, request } from "undici";
import { type Clock, type Extent, ReadOnlyNode, systemClock, validateOpen, validateRange } from "../block/index.ts";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import {
  type HttpVersion,
  isDistrust,
  mustBePlain,
  mustBeSame,
  parseContentRange,
  shownUrl,
  statusError,
  unsatisfiedLength,
  versionOf,
} from "./http-reply.ts";

export interface HttpOptions {
  /** A file with certificates (PEM) to trust beside the system's. */
  readonly caFile?: string | undefined;
  /** How long a server may be silent, in milliseconds. @default 30000 */
  readonly timeoutMs?: number;
  /** How often a request is sent at the most. @default 4 */
  readonly tries?: number;
  readonly clock?: Clock;
}

const CONNECTIONS = 16;
const MOST_REDIRECTS = 5;
const FIRST_RETRY_MS = 200;
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/**
 * Opens an object.
 *
 * @param address `http:` or `https:`
 * @throws {StreamdiskError} `unsupported` for a server without ranges, `refused` for one whose certificate nobody trusts,
 *   `not-found`, `permission`, `source-lost`, `protocol`
 */
export async function openHttp(address: string, options: HttpOptions = {}): Promise<HttpNode> {
  const url = parseUrl(address);
  const connection = new HttpConnection(url, await makeAgent(options), options);
  try {
    return new HttpNode(connection, await connection.pin());
  } catch (error) {
    await connection.close();
    throw error;
  }
}

function parseUrl(address: string): URL {
  const url = URL.parse(address);
  if (url !== null && (url.protocol === "http:" || url.protocol === "https:") && url.hostname !== "") return url;
  // The text itself may hold a password: it is not shown.
  throw new StreamdiskError("invalid-argument", "A source's address is no valid http or https URL");
}

async function makeAgent({ caFile, timeoutMs = 30_000 }: HttpOptions): Promise<Agent> {
  const limits = { connections: CONNECTIONS, headersTimeout: timeoutMs, bodyTimeout: timeoutMs };
  const connect = { timeout: timeoutMs };
  if (caFile === undefined) return new Agent({ ...limits, connect });
  return new Agent({ ...limits, connect: { ...connect, ca: await trusted(caFile) } });
}

/** The usual certificates, and those of a file. */
async function trusted(caFile: string): Promise<string[]> {
  const { getCACertificates } = await import("node:tls");
  let text: string;
  try {
    text = await readFile(caFile, "utf8");
  } catch (error) {
    throw wrapSystemError(error, caFile, "read");
  }
  const added = text.match(CERTIFICATE) ?? [];
  try {
    // Node.js itself passes over what is no certificate.
    for (const certificate of added) new X509Certificate(certificate);
    if (added.length > 0) return [...getCACertificates("default"), ...added];
  } catch (error) {
    const message = `'${caFile}' holds a certificate that cannot be read`;
    throw new StreamdiskError("invalid-argument", message, { node: caFile }, error);
  }
  throw new StreamdiskError("invalid-argument", `'${caFile}' holds no certificates in PEM form`, { node: caFile });
}

/** Requests for ranges of one object. */
class HttpConnection {
  readonly name: string;
  readonly #url: URL;
  readonly #agent: Agent;
  readonly #tries: number;
  readonly #clock: Clock;
  readonly #authorization: string | undefined;
  /** Where redirections led. */
  #place: URL | undefined;

  constructor(url: URL, agent: Agent, { tries = 4, clock = systemClock }: HttpOptions) {
    this.name = shownUrl(url);
    this.#url = url;
    this.#agent = agent;
    this.#tries = tries;
    this.#clock = clock;
    if (url.username !== "" || url.password !== "") {
      const pair = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
      this.#authorization = `Basic ${Buffer.from(pair).toString("base64")}`;
    }
  }

  /** Learns the length and version. */
  pin(): Promise<HttpVersion> {
    return this.#patiently(async () => {
      const reply = await this.#get(0, 1);
      await reply.body.dump();
      if (reply.statusCode === 416 && unsatisfiedLength(reply.headers) === 0) return versionOf(reply.headers, 0);
      if (reply.statusCode !== 206) throw statusError(reply.statusCode, this.name);
      mustBePlain(reply.headers, this.name);
      return versionOf(reply.headers, parseContentRange(reply.headers, this.name).length);
    });
  }

  /** Fills `target` from `offset`. */
  read(offset: number, target: Uint8Array, pinned: HttpVersion, signal?: AbortSignal): Promise<void> {
    return this.#patiently(async () => {
      const reply = await this.#get(offset, target.length, signal);
      try {
        if (reply.statusCode !== 206) throw statusError(reply.statusCode, this.name);
        mustBePlain(reply.headers, this.name);
        const range = parseContentRange(reply.headers, this.name);
        mustBeSame(pinned, versionOf(reply.headers, range.length), this.name);
        if (range.start !== offset || range.end !== offset + target.length - 1) {
          throw this.#protocol(`${range.start}-${range.end} for ${offset}-${offset + target.length - 1}`);
        }
        await this.#fill(reply.body, target);
      } catch (error) {
        // A body that is broken off says so once more, to nobody.
        reply.body.on("error", () => {}).destroy();
        throw error;
      }
    }, signal);
  }

  async #fill(body: Dispatcher.ResponseData["body"], target: Uint8Array): Promise<void> {
    let done = 0;
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      if (done + chunk.length > target.length) throw this.#protocol(`more than ${target.length} bytes`);
      target.set(chunk, done);
      done += chunk.length;
    }
    if (done < target.length) {
      const message = `The server of '${this.name}' broke off after ${done} of ${target.length} bytes`;
      throw new StreamdiskError("source-lost", message, { node: this.name });
    }
  }

  #protocol(what: string): StreamdiskError {
    return new StreamdiskError("protocol", `The server of '${this.name}' sent ${what}`, { node: this.name });
  }

  /** Sends a request to where the object is, following redirections. */
  async #get(offset: number, length: number, signal?: AbortSignal): Promise<Dispatcher.ResponseData> {
    const remembered = this.#place;
    const reply = await this.#send(remembered ?? this.#url, offset, length, signal);
    if (remembered === undefined || reply.statusCode < 400 || reply.statusCode === 416 || reply.statusCode >= 500) {
      return reply;
    }
    // The address has expired: the way to it is asked for anew.
    await reply.body.dump();
    this.#place = undefined;
    return this.#send(this.#url, offset, length, signal);
  }

  async #send(place: URL, offset: number, length: number, signal?: AbortSignal): Promise<Dispatcher.ResponseData> {
    let url = place;
    for (let hops = 0; hops <= MOST_REDIRECTS; hops++) {
      const reply = await this.#ask(url, offset, length, signal);
      const location = reply.headers.location;
      if (reply.statusCode < 300 || reply.statusCode > 399 || typeof location !== "string") {
        if (url !== this.#url) this.#place = url;
        return reply;
      }
      await reply.body.dump();
      const next = URL.parse(location, url.href);
      if (next === null || (next.protocol !== "https:" && next.protocol !== url.protocol)) {
        throw this.#protocol("a redirection that leads nowhere safe");
      }
      url = next;
    }
    throw this.#protocol(`more than ${MOST_REDIRECTS} redirections`);
  }

  async #ask(url: URL, offset: number, length: number, signal?: AbortSignal): Promise<Dispatcher.ResponseData> {
    const headers: Record<string, string> = {
      range: `bytes=${offset}-${offset + length - 1}`,
      "accept-encoding": "identity",
    };
    // Credentials are for the host that they were given for.
    if (this.#authorization !== undefined && url.host === this.#url.host) headers.authorization = this.#authorization;
    const bare = new URL(url);
    bare.username = "";
    bare.password = "";
    try {
      return await request(bare, { dispatcher: this.#agent, method: "GET", headers, signal: signal ?? null });
    } catch (error) {
      throw this.#lost(error);
    }
  }

  /** Messages of the transport may hold the whole address: only its code is shown. */
  #lost(error: unknown): unknown {
    if (error instanceof StreamdiskError || (error instanceof Error && error.name === "AbortError")) return error;
    const code = (error as NodeJS.ErrnoException | undefined)?.code ?? "the connection failed";
    if (isDistrust(code)) {
      const message =
        `The server of '${this.name}' is not who it should be, by its certificate: ${code}. If an authority of your own ` +
        "signed it, name that with --source-ca-file, in a program with sourceOptions.caFile";
      return new StreamdiskError("refused", message, { node: this.name });
    }
    return new StreamdiskError("source-lost", `The server of '${this.name}' could not be reached: ${code}`, {
      node: this.name,
    });
  }

  /** Tries again what may pass. */
  async #patiently<T>(act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    for (let left = this.#tries - 1, wait = FIRST_RETRY_MS; ; left--, wait *= 2) {
      try {
        return await act();
      } catch (raw) {
        const error = this.#lost(raw);
        const mayPass = error instanceof StreamdiskError && error.code === "source-lost";
        if (!mayPass || left <= 0 || signal?.aborted) throw error;
        await this.#clock.sleep(wait * (0.5 + Math.random()), signal);
      }
    }
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }
}

/** Made by {@link openHttp}. */
export class HttpNode extends ReadOnlyNode {
  readonly backing = undefined;
  readonly #connection: HttpConnection;
  readonly #version: HttpVersion;
  #closed = false;

  constructor(connection: HttpConnection, version: HttpVersion) {
    super();
    this.#connection = connection;
    this.#version = version;
  }

  get name(): string {
    return this.#connection.name;
  }

  get length(): number {
    return this.#version.length;
  }

  /** Whether the server gives a version beside the length, by which a change can be told. */
  get pinned(): boolean {
    return this.#version.etag !== undefined || this.#version.lastModified !== undefined;
  }

  /** What the server says of it beside the length. */
  get version(): string | undefined {
    return this.#version.etag ?? this.#version.lastModified;
  }

  async read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#validate("read", offset, target.length);
    if (target.length > 0) await this.#connection.read(offset, target, this.#version, signal);
  }

  /** HTTP does not tell holes from data. */
  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#validate("map", offset, length);
    return length === 0 ? [] : [{ offset, length, kind: "data", depth: 0, hostOffset: offset }];
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#connection.close();
  }

  #validate(operation: string, offset: number, length: number): void {
    validateOpen(this, operation, this.#closed);
    validateRange(this, operation, offset, length);
  }
}
