/** What goes to standard output: JSON for programs, lines for people. Standard error has only errors, warnings and the bar. */
import { formatSize } from "./units.ts";

/** Prints one JSON document, indented as qemu-img does. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 4)}\n`);
}

/** Prints one JSON document on one line: one event of many. */
export function printJsonLine(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** Prints lines for people. */
export function printLines(...lines: readonly string[]): void {
  if (lines.length > 0) process.stdout.write(`${lines.map(printable).join("\n")}\n`);
}

/** Says on standard error what the user should know, one line each. */
export function printWarnings(warnings: readonly string[]): void {
  for (const warning of warnings) process.stderr.write(`streamdisk: warning: ${printable(warning)}\n`);
}

/**
 * Makes text from an image or a peer harmless: control characters, which could move the cursor or forge lines, are shown
 * as escapes.
 */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
}

/** `64 MiB (67108864 bytes)`. */
export function sizeWithBytes(bytes: number): string {
  return `${formatSize(bytes)} (${bytes} bytes)`;
}

/** Rows as columns, padded to the widest cell; the last column is not padded. */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, index) => {
      widths[index] = Math.max(widths[index] ?? 0, cell.length);
    });
  }
  return rows.map((row) =>
    row
      .map((cell, index) => (index === row.length - 1 ? cell : cell.padEnd(widths[index] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
}

/** The command that was called, so that a shell takes it again. */
export function calledCommand(): string {
  return ["streamdisk", ...process.argv.slice(2).map(shellWord)].join(" ");
}

/** A text so that a shell takes it for one word. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
