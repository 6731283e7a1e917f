/**
 * The directory in which all of the demo lies. However the demo ends, short of kill -9, the directory goes, and with it every process that was
 * given something in it: a machine must not run on of which nobody knows. That it ends may come by a signal, by a terminal that is
 * closed, by a reader of its output who has seen enough (`| head`), or by somebody who types Ctrl-C twice.
 */
import { globSync, readFileSync, rmSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { wrapSystemError } from "../../errors/index.ts";

const EXIT_INTERRUPTED = 130;
/** A process that is being ended may still make a file. */
const RETRIES = 10;

/** @param parent where it is made @param keeps whether it stays when the demo has come to its end */
export async function inOwnDirectory(
  parent: string,
  keeps: boolean,
  run: (directory: string) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(parent, "streamdisk-demo-")).catch((error: unknown) => {
    throw wrapSystemError(error, parent, "make a directory in");
  });
  const abandon = (): void => {
    endProcessesOf(directory);
    rmSync(directory, { recursive: true, force: true, maxRetries: RETRIES });
  };
  const hangUp = (): void => void process.kill(process.pid, "SIGTERM");
  let interrupts = 0;
  const interrupt = (): void => {
    if (++interrupts > 1) process.exit(EXIT_INTERRUPTED);
  };
  process.on("exit", abandon).on("SIGHUP", hangUp).on("SIGINT", interrupt);
  try {
    await run(directory);
  } finally {
    endProcessesOf(directory);
    process.off("exit", abandon).off("SIGHUP", hangUp).off("SIGINT", interrupt);
    if (keeps) process.stderr.write(`streamdisk: the images are in '${directory}'\n`);
    else await rm(directory, { recursive: true, force: true, maxRetries: RETRIES });
  }
}

/** Those that have a path below it among their arguments or in their environment: a daemon's arguments are hidden by its title. */
function endProcessesOf(directory: string): void {
  for (const place of globSync("/proc/[0-9]*")) {
    const pid = Number(basename(place));
    const isOurs = ["cmdline", "environ"].some((file) => contentOf(join(place, file)).includes(`${directory}/`));
    if (!isOurs || pid === process.pid) continue;
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
}

/** Nothing, of a process that has ended, or is another user's. */
function contentOf(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}
