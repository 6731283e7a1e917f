/** How an image is refused: the two sentences that every qcow2 message begins with. */
import { type ErrorContext, StreamdiskError } from "../../errors/index.ts";

/** What the specification rules out, or what is cut off. */
export function invalidImage(node: string, why: string, context: ErrorContext = {}): StreamdiskError {
  return new StreamdiskError("invalid-image", `'${node}' is not a valid qcow2 image: ${why}`, { node, ...context });
}

/** What the specification allows and this program does not implement. */
export function unsupportedImage(node: string, why: string, context: ErrorContext = {}): StreamdiskError {
  return new StreamdiskError("unsupported", `Could not use '${node}': ${why}`, { node, ...context });
}
