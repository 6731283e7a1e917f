/** What the control plane and a disk's thread say to each other. All of it is plain data. */
import { type ErrorCode, type ErrorContext, StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import type { Cells, CellsPart } from "../image/index.ts";
import type { NbdClient } from "../nbd/index.ts";
import type { StepResult } from "../stream/index.ts";
import type {
  BaseLayer,
  DiskEvent,
  DiskInfo,
  DiskLive,
  DiskSpec,
  LoadSample,
  MapPage,
  MapPart,
  StreamSpec,
} from "./disk-spec.ts";

/** Calls by name: what goes, what comes back. */
export interface DiskCalls {
  open: { args: DiskSpec; result: { readonly uri: string } };
  info: { args: undefined; result: DiskInfo };
  mapPage: { args: MapPart; result: MapPage };
  clients: { args: undefined; result: readonly NbdClient[] };
  load: { args: { readonly since: number }; result: readonly LoadSample[] };
  cells: { args: CellsPart; result: Cells };
  live: { args: undefined; result: DiskLive };
  watch: { args: { readonly on: boolean }; result: undefined };
  stream: { args: StreamSpec; result: undefined };
  base: { args: { readonly named: string }; result: BaseLayer };
  cancelStream: { args: undefined; result: undefined };
  setSpeed: { args: { readonly speed: number | undefined }; result: undefined };
  step: { args: { readonly offset?: number; readonly length: number }; result: StepResult };
  resize: { args: { readonly length: number; readonly shrink: boolean }; result: undefined };
  failHeld: { args: undefined; result: undefined };
  release: { args: undefined; result: undefined };
  setPolicy: { args: SourcePolicy; result: undefined };
  close: { args: undefined; result: undefined };
}

export type CallName = keyof DiskCalls;

export interface CallMessage {
  readonly call: number;
  readonly disk: number;
  readonly name: CallName;
  readonly args: unknown;
}

export type ThreadMessage =
  | { readonly reply: number; readonly result: unknown }
  | { readonly reply: number; readonly error: SentError }
  | { readonly disk: number; readonly event: DiskEvent };

/** An error on its way between threads: structured cloning keeps neither class nor code. */
export interface SentError {
  readonly code: ErrorCode | undefined;
  readonly message: string;
  readonly context: ErrorContext;
}

export function sendError(error: unknown): SentError {
  if (error instanceof StreamdiskError) return { code: error.code, message: error.message, context: error.context };
  return { code: undefined, message: error instanceof Error ? error.message : String(error), context: {} };
}

export function receivedError({ code, message, context }: SentError): Error {
  return code === undefined ? new Error(message) : new StreamdiskError(code, message, context);
}
