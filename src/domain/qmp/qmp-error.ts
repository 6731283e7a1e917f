import { type ErrorCode, StreamdiskError } from "../../errors/index.ts";
import { type JsonObject, JsonValue } from "./json-value.ts";

/** What a QMP error says: docs/interop/qmp-spec.txt of QEMU, "Error". */
export interface QmpFailure {
  readonly class: string;
  readonly desc: string;
}

/** The classes that mean something of their own; all else is `GenericError`. */
const CODES: Readonly<Record<string, ErrorCode>> = {
  CommandNotFound: "unsupported",
  DeviceNotFound: "not-found",
  DeviceNotActive: "not-found",
};

/**
 * What a message that answers a command gives.
 *
 * @throws {StreamdiskError} `refusedCommand`
 */
export function readAnswer(node: string, command: string, message: JsonObject): JsonValue {
  if ("return" in message) return new JsonValue(message["return"], command);
  const error = new JsonValue(message["error"], `error of ${command}`);
  throw refusedCommand(node, command, { class: error.get("class").string(), desc: error.get("desc").string() });
}

/** The error for a command that QEMU refused; its cause is the {@link QmpFailure}. */
function refusedCommand(node: string, operation: string, failure: QmpFailure): StreamdiskError {
  const code = CODES[failure.class] ?? "refused";
  const message = `QEMU at '${node}' refuses ${operation}: ${failure.desc} (${failure.class})`;
  return new StreamdiskError(code, message, { node, operation }, failure);
}

/** What QEMU said, of an error that is a refusal of QEMU's. */
export function qmpFailure(error: unknown): QmpFailure | undefined {
  if (!(error instanceof StreamdiskError)) return undefined;
  const cause = error.cause as Partial<QmpFailure> | undefined;
  return typeof cause?.class === "string" && typeof cause.desc === "string" ? (cause as QmpFailure) : undefined;
}

/** Waits for a command that QEMU may refuse: what it is to bring about is so already. */
export async function unlessRefused(command: Promise<void>): Promise<void> {
  await command.catch((error) => {
    if (qmpFailure(error) === undefined) throw error;
  });
}
