/**
 * An image of the daemon, open or not: it is opened with its socket, and again and again when it cannot be, at growing intervals or
 * when somebody asks for it. A failure is this image's alone. One that is lost with its thread is opened again at once; if that
 * happens to it again and again, at growing intervals too.
 *
 * It tells whoever looks on when it is open, or no more, and when its source is lost or back: event `change`.
 *
 * Whoever has it sees to it that `open`, `close` and `demand` are called one at a time (`turns.ts`).
 */
import { EventEmitter } from "node:events";
import { type ServeDiskOptions, type ServedDisk, type SourceState, serveDisk } from "../engine/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DiskSettings, ExportAddress } from "../jobs/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";

export interface HostedImageOptions {
  /** How to open it, asked each time. */
  readonly spec: () => Promise<ServeDiskOptions>;
  /** Called when it is open, before anything that it tells. */
  readonly onOpen: (served: ServedDisk) => void;
  /** Called with each failure that is not the same as the last. */
  readonly onFailure: (error: StreamdiskError) => void;
  /** Called when its thread has died; it is opened again by itself. */
  readonly onLost: (error: StreamdiskError) => void;
  /** Called when it is time to try again: whoever has it takes its turn and calls `demand`. */
  readonly onRetry: () => void;
  /** The first pause before another try, in milliseconds. @default 1000 */
  readonly firstRetryMs?: number;
}

const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 60_000;

export class HostedImage extends EventEmitter<{ change: [] }> {
  readonly #options: HostedImageOptions;
  #served: ServedDisk | undefined;
  #source: SourceState | undefined;
  #error: StreamdiskError | undefined;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = 0;
  #openedAt = 0;
  /** How long it waits after the next loss, unless it is a long time until then. */
  #lossMs = 0;

  constructor(options: HostedImageOptions) {
    super();
    // As many as there are machines on it.
    this.setMaxListeners(0);
    this.#options = options;
  }

  /** Undefined while it is not open. */
  get served(): ServedDisk | undefined {
    return this.#served;
  }

  /** How its source is; undefined while it is not open, and for one that was well ever since. */
  get source(): SourceState | undefined {
    return this.#source;
  }

  /** Why it could not be opened the last time. */
  get error(): StreamdiskError | undefined {
    return this.#error;
  }

  /**
   * The open image; tries to open it if it is not.
   *
   * @throws {StreamdiskError} as `serveDisk` says; it will be tried again by itself
   */
  async demand(): Promise<ServedDisk> {
    clearTimeout(this.#retry);
    if (this.#served !== undefined) return this.#served;
    try {
      const served = await serveDisk(await this.#options.spec());
      this.#served = served;
      this.#error = undefined;
      this.#retryMs = 0;
      this.#openedAt = performance.now();
      served.once("lost", (error) => this.#lose(served, error));
      served.on("source", (source) => {
        this.#source = source;
        this.emit("change");
      });
      this.#options.onOpen(served);
      this.emit("change");
      return served;
    } catch (error) {
      const failure = asStreamdiskError(error);
      const isNews = failure.message !== this.#error?.message;
      this.#error = failure;
      this.#retryMs = this.#longer(this.#retryMs);
      this.#tryAgain(this.#retryMs);
      if (isNews) this.#options.onFailure(failure);
      throw failure;
    }
  }

  #lose(served: ServedDisk, error: StreamdiskError): void {
    if (this.#served !== served) return;
    this.#served = undefined;
    this.#source = undefined;
    this.#error = error;
    this.emit("change");
    void served.close();
    this.#options.onLost(error);
    const wait = performance.now() - this.#openedAt < LONGEST_RETRY_MS ? this.#lossMs : 0;
    this.#lossMs = this.#longer(wait);
    this.#tryAgain(wait);
  }

  #tryAgain(afterMs: number): void {
    this.#retry = setTimeout(this.#options.onRetry, afterMs).unref();
  }

  #longer(ms: number): number {
    const { firstRetryMs = FIRST_RETRY_MS } = this.#options;
    return Math.min(Math.max(firstRetryMs, ms * 2), LONGEST_RETRY_MS);
  }

  /** Lets clients finish, closes the image clean, and tries no more. */
  async close(): Promise<void> {
    clearTimeout(this.#retry);
    const served = this.#served;
    this.#served = undefined;
    this.#source = undefined;
    this.emit("change");
    await served?.close();
  }
}

function asStreamdiskError(error: unknown): StreamdiskError {
  if (error instanceof StreamdiskError) return error;
  return new StreamdiskError("io", error instanceof Error ? error.message : String(error), {}, error);
}

/**
 * What the engine is told of what is remembered.
 *
 * @throws {StreamdiskError} `refused` for what may not be opened any more
 */
export async function serveOptions(
  settings: DiskSettings,
  address: ExportAddress,
  allowed: AllowedPaths,
  options: DaemonOptions,
): Promise<ServeDiskOptions> {
  await allowed.remembered(settings, options.socketDirectory);
  const { image, format, backing, backingFormat, readOnly, copyOnRead, onSourceError } = settings;
  return {
    image,
    readOnly,
    copyOnRead,
    onSourceError,
    allowBacking: allowed.backing,
    sourceOptions: options.sourceOptions,
    listen: listenAt(address, options),
    ...(format !== undefined && { format }),
    ...(backing !== undefined && { backing }),
    ...(backingFormat !== undefined && { backingFormat }),
  };
}

function listenAt(
  address: ExportAddress,
  { diskSocketMode: mode, diskSocketGroup: group }: DaemonOptions,
): NonNullable<ServeDiskOptions["listen"]> {
  if (address.kind === "tcp") return { host: address.host, port: address.port };
  return { path: address.path, ...(mode !== undefined && { mode }), ...(group !== undefined && { group }) };
}
