import type { SourceNode } from "./open-source.ts";

/** By what it is told whether a source on another machine is the one that it was. */
export interface SourceFacts {
  /** Bytes. */
  readonly length: number;
  /** What its server says of its version, where it says that. */
  readonly version?: string;
}

/** An export of an NBD server has its length and no version. */
export function sourceFacts(source: SourceNode): SourceFacts {
  const version = "version" in source ? source.version : undefined;
  return { length: source.length, ...(version !== undefined && { version }) };
}
