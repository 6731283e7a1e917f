import { ERROR_TABLE, type ErrorCode } from "../errors/index.ts";

/** What most commands can meet, for their help; docs/commands.md has all. */
const COMMON: readonly (readonly [ErrorCode, string])[] = [
  ["invalid-argument", "wrong usage"],
  ["invalid-image", "no valid image"],
  ["not-found", "not found"],
  ["source-lost", "source lost"],
  ["no-space", "no space, or it exists already"],
  ["io", "read or write failed"],
  ["in-use", "in use"],
  ["refused", "refused, not permitted, not supported"],
];

/** Examples and exit codes, to stand under a command's help. */
export function helpAfter(examples: readonly string[], exits: Readonly<Record<number, string>> = {}): string {
  const codes: Record<number, string> = { 0: "done", ...exits };
  for (const [code, meaning] of COMMON) codes[ERROR_TABLE[code].exit] ??= meaning;
  codes[130] ??= "stopped by Ctrl-C";
  return [
    "",
    examples.length > 1 ? "Examples:" : "Example:",
    ...examples.map((example) => `  ${example}`),
    "",
    "Exit codes:",
    ...Object.entries(codes).map(([code, meaning]) => `  ${code.padStart(3)}  ${meaning}`),
  ].join("\n");
}
