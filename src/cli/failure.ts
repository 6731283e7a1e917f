/**
 * What a failure looks like at the shell: one line on standard error and an exit code of the error table. The stack trace
 * is shown only with STREAMDISK_DEBUG=1.
 */
import { CommanderError } from "commander";
import { ERROR_TABLE, StreamdiskError } from "../errors/index.ts";
import { Interrupted } from "./interrupt.ts";
import { printable } from "./output.ts";

/** sysexits.h: an error of the program itself. */
const EXIT_INTERNAL = 70;

const EXIT_USAGE = ERROR_TABLE["invalid-argument"].exit;

export interface Failure {
  /** Undefined when all is said already. */
  readonly message: string | undefined;
  readonly exit: number;
}

/** The line and the exit code for anything that a command may throw. */
export function failureOf(error: unknown): Failure {
  if (error instanceof StreamdiskError) return { message: error.message, exit: error.row.exit };
  if (error instanceof CommanderError) return usageFailure(error);
  const interrupted = Interrupted.behind(error);
  if (interrupted !== undefined) return { message: interrupted.message, exit: interrupted.exit };
  const said = error instanceof Error ? error.message : String(error);
  return { message: `Internal error: ${said} (STREAMDISK_DEBUG=1 shows where; please report it)`, exit: EXIT_INTERNAL };
}

/** Writes the line and returns the exit code. */
export function reportFailure(error: unknown): number {
  const { message, exit } = failureOf(error);
  if (message !== undefined) process.stderr.write(`streamdisk: ${printable(message)}\n`);
  if (message !== undefined && process.env["STREAMDISK_DEBUG"] === "1") console.error(error);
  return exit;
}

/** Commander's own errors, as one sentence; help and version are no errors, help for want of a command is one. */
function usageFailure(error: CommanderError): Failure {
  if (error.exitCode === 0) return { message: undefined, exit: 0 };
  if (error.code === "commander.help") return { message: undefined, exit: EXIT_USAGE };
  const text = error.message.replace(/^error: /, "").replace(/\s*\n\s*/g, " ");
  return { message: `${text.charAt(0).toUpperCase()}${text.slice(1)}`, exit: EXIT_USAGE };
}
