/** A way to a QEMU's monitor: its own socket, or a program that has it. `QmpClient` is the same over both. */
import type { Clock } from "../../block/index.ts";
import type { StreamdiskError } from "../../errors/index.ts";
import type { JsonObject, JsonValue } from "./json-value.ts";

export interface QmpEvent {
  readonly name: string;
  readonly data: JsonValue;
}

export interface QmpListener {
  event(event: QmpEvent): void;
  /** The link has ended. */
  ended(error: StreamdiskError): void;
}

export interface QmpConnectOptions {
  /** How long a greeting and an answer may take, in milliseconds. @default 30000 */
  readonly timeoutMs?: number | undefined;
  readonly clock?: Clock | undefined;
  readonly signal?: AbortSignal | undefined;
}

export const DEFAULT_TIMEOUT_MS = 30_000;

export interface QmpTransport {
  /** What the monitor is called in messages. */
  readonly name: string;
  /** Makes a link that is ready for commands. @throws {StreamdiskError} why there is none; or the signal's reason */
  open(options: QmpConnectOptions, listener: QmpListener): Promise<QmpLink>;
}

/** As long as it lasts: it ends once, and everything that waits then fails with the reason. */
export interface QmpLink {
  readonly isOver: boolean;
  /**
   * Runs a command.
   *
   * @throws {StreamdiskError} QEMU's refusal (`refusedCommand`), `io` when it does not answer in time, `shutdown` when the link
   *   ends before it has answered; or the signal's reason. Whether it did what it was told is not known then
   */
  execute(command: string, args: JsonObject, signal?: AbortSignal): Promise<JsonValue>;
  close(): void;
}
