/** Whether a source answers that others have open: a machine that lacks it may go on then. */
import { within } from "../block/index.ts";
import { openSource, parseReference, type SourceOptions } from "../sources/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";

const PROBE_BYTES = 512;
/** One that takes longer is as good as away. */
const PATIENCE_MS = 5_000;

/** @returns undefined for one that this daemon may not open, or that is no server's */
export async function sourceAnswers(
  uri: string,
  allowed: AllowedPaths,
  options: SourceOptions | undefined,
): Promise<boolean | undefined> {
  const mayAsk = await allowed.source(uri).then(
    () => parseReference(uri).kind !== "file",
    () => false,
  );
  if (!mayAsk) return undefined;
  return (await within(ask(uri, options), PATIENCE_MS)) ?? false;
}

async function ask(uri: string, options: SourceOptions | undefined): Promise<boolean> {
  try {
    await using source = await openSource(uri, { readOnly: true }, options);
    await source.read(0, new Uint8Array(Math.min(PROBE_BYTES, source.length)));
    return true;
  } catch {
    return false;
  }
}
