/** What every node refuses alike, before it does anything. */
import { StreamdiskError } from "../errors/index.ts";
import type { BlockNode } from "./node.ts";

/** @throws {StreamdiskError} `invalid-argument` for a range that does not lie inside the node */
export function validateRange(
  node: Pick<BlockNode, "name" | "length">,
  operation: string,
  offset: number,
  length: number,
): void {
  if (offset >= 0 && length >= 0 && offset + length <= node.length && Number.isSafeInteger(offset + length)) return;
  throw new StreamdiskError(
    "invalid-argument",
    `Could not ${operation} ${length} bytes at ${offset} of '${node.name}': it has ${node.length} bytes`,
    { node: node.name, operation, offset, length },
  );
}

/** @throws {StreamdiskError} `permission` when the node is open for reading only */
export function validateWritable(node: Pick<BlockNode, "name" | "readOnly">, operation: string): void {
  if (!node.readOnly) return;
  throw new StreamdiskError("permission", `Could not ${operation} '${node.name}': it is open read-only`, {
    node: node.name,
    operation,
  });
}

/** @throws {StreamdiskError} `shutdown` when the node has been closed */
export function validateOpen(node: Pick<BlockNode, "name">, operation: string, closed: boolean): void {
  if (!closed) return;
  throw new StreamdiskError("shutdown", `Could not ${operation} '${node.name}': it is closed`, {
    node: node.name,
    operation,
  });
}
