import type { Command } from "commander";

/** What the options of {@link daemonOptions} leave. */
export interface DaemonFlags {
  readonly daemon?: string;
  readonly tokenFile?: string;
  readonly json?: boolean;
}

/** Adds how the daemon is found. */
export function daemonOptions(command: Command): Command {
  return command
    .option(
      "--daemon <address>",
      "its socket, state directory or URL; without it $STREAMDISK_DAEMON, or the one of this user",
    )
    .option("--token-file <file>", "with a URL: the token of the daemon");
}
