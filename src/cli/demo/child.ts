/** A `streamdisk stream --json` as a process of its own, observed through what it prints. */
import { spawn } from "node:child_process";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";
import type { StreamProgress } from "../../stream/index.ts";

export interface ChildEnd {
  readonly exit: number | null;
  readonly killedBy: NodeJS.Signals | null;
  /** What it said on standard error. */
  readonly said: string;
  readonly last: StreamProgress | undefined;
}

/**
 * Runs a stream to its end, or kills it with SIGKILL as soon as `killAt` says so of a progress.
 *
 * @param signal kills it as well; the promise still resolves with how it ended
 */
export async function runStream(
  args: readonly string[],
  onProgress: (progress: StreamProgress) => void,
  signal: AbortSignal,
  killAt: (progress: StreamProgress) => boolean = () => false,
): Promise<ChildEnd> {
  const main = join(import.meta.dirname, `../main${extname(import.meta.filename)}`);
  const child = spawn(process.execPath, [...process.execArgv, main, "stream", "--json", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const kill = () => child.kill("SIGKILL");
  signal.addEventListener("abort", kill, { once: true });
  const ended = new Promise<{ exit: number | null; killedBy: NodeJS.Signals | null }>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (exit, killedBy) => resolve({ exit, killedBy }));
  });
  let said = "";
  let last: StreamProgress | undefined;
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    if (child.killed) return;
    const progress = JSON.parse(line) as StreamProgress;
    last = progress;
    onProgress(progress);
    if (progress.state === "running" && killAt(progress)) kill();
  });
  try {
    return { ...(await ended), said: said.trim(), last };
  } finally {
    signal.removeEventListener("abort", kill);
  }
}
