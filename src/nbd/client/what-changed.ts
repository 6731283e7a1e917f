import type { NbdExportInfo } from "./export-info.ts";

const ABILITIES = ["canFlush", "canTrim", "canWriteZeroes", "canCache", "structuredReplies"] as const;

/**
 * Whether an export is another one than before. It may be able to do more than it promised, never less. What it holds can't
 * be compared: NBD has nothing to tell one content from another.
 *
 * @returns a clause that names the first difference
 */
export function whatChanged(before: NbdExportInfo, now: NbdExportInfo): string | undefined {
  if (now.length !== before.length) return `it has ${now.length} bytes instead of ${before.length}`;
  if (now.readOnly !== before.readOnly) return now.readOnly ? "it has become read-only" : "it has become writable";
  if (now.minimumBlock > before.minimumBlock) {
    return `its smallest block has ${now.minimumBlock} bytes instead of ${before.minimumBlock}`;
  }
  if (now.maximumPayload < before.maximumPayload) {
    return `it takes requests of ${now.maximumPayload} bytes instead of ${before.maximumPayload}`;
  }
  for (const ability of ABILITIES) if (before[ability] && !now[ability]) return `it has lost an ability (${ability})`;
  for (const context of before.contexts) {
    if (!now.contexts.includes(context)) return `it does not tell '${context}' any more`;
  }
  return undefined;
}
