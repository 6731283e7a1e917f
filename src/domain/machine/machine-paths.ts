import { join } from "node:path";
import { StreamdiskError } from "../../errors/index.ts";

/** The files of a machine, in a directory of its own that only its owner may enter. */
export interface MachinePaths {
  readonly directory: string;
  /** QEMU's monitor, which is streamdisk's alone. */
  readonly qmp: string;
  /** The serial console, for one client at a time. */
  readonly console: string;
  /** What the guest wrote to it. */
  readonly consoleLog: string;
  readonly pidFile: string;
  /** What QEMU says of errors. */
  readonly log: string;
  /** Pid of the shell that waits for QEMU, and how QEMU ended. */
  readonly shell: string;
  readonly exit: string;
}

/** What fits into a `struct sockaddr_un`, with its end (unix(7)). */
const LONGEST_SOCKET_PATH = 107;

/** @throws {StreamdiskError} `invalid-argument` when the sockets would have too long a path */
export function machinePaths(directory: string): MachinePaths {
  const paths = {
    directory,
    qmp: join(directory, "qmp"),
    console: join(directory, "console"),
    consoleLog: join(directory, "console.log"),
    pidFile: join(directory, "pid"),
    log: join(directory, "qemu.log"),
    shell: join(directory, "shell"),
    exit: join(directory, "exit"),
  };
  const over = Buffer.byteLength(paths.console) - LONGEST_SOCKET_PATH;
  if (over <= 0) return paths;
  const message = `The directory '${directory}' is ${over} bytes too long for the sockets of a machine: take a shorter name, or a shorter state directory`;
  throw new StreamdiskError("invalid-argument", message, { node: directory });
}
