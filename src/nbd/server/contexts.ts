/**
 * The metadata contexts of an export (doc/proto.md, "Metadata querying") and how a client asks for them. A context is known
 * by its place in this list, which is also its id on the wire.
 */
import { CONTEXT_ALLOCATION, CONTEXT_DEPTH, CONTEXT_LOCAL } from "../protocol.ts";

export const CONTEXTS = [CONTEXT_ALLOCATION, CONTEXT_DEPTH, CONTEXT_LOCAL] as const;
export type ContextName = (typeof CONTEXTS)[number];

/** For a client that lists: an empty leaf-name stands for all of a namespace, and no query at all for everything. */
export function listContexts(queries: readonly string[]): ContextName[] {
  if (queries.length === 0) return [...CONTEXTS];
  return CONTEXTS.filter((name) => queries.some((query) => query === name || query === namespaceOf(name)));
}

/** For a client that selects: only what it names. */
export function selectContexts(queries: readonly string[]): ContextName[] {
  return CONTEXTS.filter((name) => queries.includes(name));
}

/** The id of a context. */
export function contextId(name: ContextName): number {
  return CONTEXTS.indexOf(name);
}

function namespaceOf(name: string): string {
  return name.slice(0, name.indexOf(":") + 1);
}
