/**
 * The port to the log of acknowledged mappings (ADR 1). Records live in memory of the kernel (a file on tmpfs), so that
 * they survive the death of the process and not that of the machine.
 *
 * The log has generations, so that it can be emptied without a gap: `rotate` begins a new one before a checkpoint takes its
 * snapshot, `dropOld` removes all others when that snapshot has reached the image; two at a time, more only after a checkpoint that
 * failed. Replay reads the oldest first. A record that reached the image already is applied again without harm: a later
 * one for the same cluster follows, or its change was not acknowledged yet; and freed clusters are reused only after `dropOld`.
 */

/** One acknowledged mapping: the L2 entry of a guest cluster, in the bytes of the image's format. */
export interface MappingRecord {
  /** Guest offset divided by the cluster size. */
  readonly cluster: number;
  /** 8 bytes, or 16 with extended L2. */
  readonly entry: Uint8Array;
}

export interface MappingLog {
  /** All records of an earlier process of this boot, oldest first. Empty when there are none. */
  replay(): readonly MappingRecord[];
  /** Records a mapping. It is synchronous: when it returns the kernel has the record. */
  append(cluster: number, entry: Uint8Array): void;
  rotate(): void;
  dropOld(): void;
  /** Removes the log: the image needs it no more. */
  remove(): void;
}

/** The last record of each cluster: what the mapping is after all of them. */
export function lastRecords(records: readonly MappingRecord[]): readonly MappingRecord[] {
  const last = new Map<number, MappingRecord>();
  for (const record of records) last.set(record.cluster, record);
  return [...last.values()];
}
