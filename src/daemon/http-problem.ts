/** Failures as the API tells them: `application/problem+json` (RFC 9457) with a code of the one table. */
import { STATUS_CODES } from "node:http";
import type { Problem } from "../api/index.ts";
import { type ErrorCode, StreamdiskError } from "../errors/index.ts";

/** A failure whose status is HTTP's own rather than that of its code. */
export class HttpRefusal extends StreamdiskError {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, code: ErrorCode, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(code, message);
    this.status = status;
    this.headers = headers;
  }
}

/** An answer before it is sent: small, so that it can be kept. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | null;
  /** Whether the same request may fare better later. */
  readonly retryable: boolean;
}

/** A message may quote what came in. */
const LONGEST_DETAIL = 2000;
const RETRY_SECONDS = "1";

export function answerOf(status: number, result: unknown): Answer {
  if (status === 204 || result === undefined) return { status, headers: {}, body: null, retryable: false };
  const headers = { "Content-Type": "application/json" };
  return { status, headers, body: JSON.stringify(result), retryable: false };
}

/**
 * The answer to a request that failed.
 *
 * @param requestId of the line in the log that says more about a failure that nobody foresaw, which the caller learns nothing of
 */
export function failureAnswer(error: unknown, requestId: string): Answer {
  const known = error instanceof StreamdiskError ? error : unforeseen(requestId);
  const status = known instanceof HttpRefusal ? known.status : known.row.http;
  const problem: Problem = {
    type: `urn:streamdisk:error:${known.code}`,
    title: STATUS_CODES[status] ?? "Failure",
    status,
    detail: known.message.slice(0, LONGEST_DETAIL),
    code: known.code,
    ...(Object.keys(known.context).length > 0 && { context: { ...known.context } }),
  };
  const headers: Record<string, string> = { "Content-Type": "application/problem+json" };
  if (status === 503) headers["Retry-After"] = RETRY_SECONDS;
  if (known instanceof HttpRefusal) Object.assign(headers, known.headers);
  return { status, headers, body: JSON.stringify(problem), retryable: known.row.retryable };
}

export function responseOf({ status, headers, body }: Answer): Response {
  return new Response(body, { status, headers });
}

function unforeseen(requestId: string): StreamdiskError {
  return new StreamdiskError("io", `Internal error: the daemon's log says more under request '${requestId}'`);
}
