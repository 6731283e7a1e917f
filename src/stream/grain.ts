import type { StreamExtent, StreamExtentKind } from "./target.ts";

/**
 * Rounds runs of kinds to whole grains, since an overlay is populated by the grain and what lies below knows nothing of
 * it. A grain that needs two things at once is fetched as a whole: that is always right.
 *
 * @param runs touching runs; the first starts at a multiple of the grain
 * @param end where the last one ends; that grain may be cut short
 */
export async function* wholeGrains(
  runs: AsyncIterable<StreamExtent>,
  grain: number,
  end: number,
): AsyncGenerator<StreamExtent, void, undefined> {
  let run: { offset: number; end: number; kind: StreamExtentKind } | undefined;
  let partial: { offset: number; kind: StreamExtentKind } | undefined;

  function* add(offset: number, runEnd: number, kind: StreamExtentKind): Generator<StreamExtent> {
    if (run?.kind === kind) {
      run.end = runEnd;
      return;
    }
    if (run !== undefined) yield { offset: run.offset, length: run.end - run.offset, kind: run.kind };
    run = { offset, end: runEnd, kind };
  }

  for await (const { offset, length, kind } of runs) {
    const runEnd = offset + length;
    let start = offset;
    if (partial !== undefined) {
      if (partial.kind !== kind) partial.kind = "fetch";
      const grainEnd = Math.min(partial.offset + grain, end);
      if (runEnd < grainEnd) continue;
      yield* add(partial.offset, grainEnd, partial.kind);
      partial = undefined;
      start = grainEnd;
    }
    const whole = runEnd === end ? end : runEnd - (runEnd % grain);
    if (whole > start) yield* add(start, whole, kind);
    if (whole < runEnd) partial = { offset: whole, kind };
  }
  if (run !== undefined) yield { offset: run.offset, length: run.end - run.offset, kind: run.kind };
}
