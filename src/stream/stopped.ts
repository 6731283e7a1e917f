import { StreamdiskError } from "../errors/index.ts";
import type { StreamReason } from "./progress.ts";
import type { StreamTarget } from "./target.ts";

/** What went wrong, and with which range if it was one. */
export interface Failure {
  readonly error: unknown;
  readonly offset?: number;
  readonly length?: number;
}

const STAYS = "What was fetched stays in the image, and the next run goes on from there";

/** Whether the same thing may succeed later by itself. */
export function mayPass({ error }: Failure): boolean {
  return error instanceof StreamdiskError && error.row.retryable && error.code !== "shutdown";
}

/** The error that ends a stream: what happened, where, and what its user may count on. */
export function stoppedBy(failure: Failure, target: StreamTarget, offset: number): StreamdiskError {
  const { code, message, ...range } = reasonOf(failure);
  const { error } = failure;
  const context = error instanceof StreamdiskError ? error.context : { node: target.name };
  const text = `${message}. The stream stopped ${at(target, offset)}. ${STAYS}`;
  return new StreamdiskError(code, text, { ...context, ...range }, error);
}

export function reasonOf({ error, offset, length }: Failure): StreamReason & { code: StreamdiskError["code"] } {
  return {
    code: error instanceof StreamdiskError ? error.code : "io",
    message: error instanceof Error ? error.message : String(error),
    ...(offset !== undefined && { offset }),
    ...(length !== undefined && { length }),
  };
}

/** What is said of a stream that its user cancelled. */
export function cancelledAt(target: StreamTarget, offset: number): string {
  return `The stream was cancelled ${at(target, offset)}. ${STAYS}`;
}

function at(target: StreamTarget, offset: number): string {
  return `at ${offset} of ${target.length} bytes of '${target.name}'`;
}
