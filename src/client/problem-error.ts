/** What a daemon says went wrong, as the error that it was there. */
import { type Problem, problem } from "../api/index.ts";
import { ERROR_TABLE, type ErrorCode, type ErrorContext, StreamdiskError } from "../errors/index.ts";

/** For an answer that is none of a daemon: something else listens there, or lies in between. */
export function problemError(status: number, text: string): StreamdiskError {
  const found = asProblem(text);
  if (found === undefined) {
    return new StreamdiskError("protocol", `The daemon's answer has status ${status} and is none that a daemon gives`);
  }
  // A later daemon may know more codes.
  const code = found.code in ERROR_TABLE ? (found.code as ErrorCode) : "io";
  return new StreamdiskError(code, found.detail, found.context as ErrorContext | undefined);
}

function asProblem(text: string): Problem | undefined {
  try {
    return problem.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}
