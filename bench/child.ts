/**
 * One program run to its end, with what it took: wall-clock time, processor time, peak memory.
 *
 * Node gives no resource usage of a child, so the kernel's own figures are read: processor time from the sum over all
 * children that have ended (proc(5), "stat", cutime and cstime, in ticks of 10 ms), peak memory from the high-water mark of
 * the resident set (proc(5), "status", VmHWM), which is read every few milliseconds and lasts until the program ends.
 * So one child runs at a time.
 */
import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** What one run took. */
export interface Usage {
  /** Seconds. */
  readonly wall: number;
  /** Seconds in user and system mode. */
  readonly cpu: number;
  /** Bytes. */
  readonly peak: number;
}

const TICKS_A_SECOND = 100;
const LOOK_MS = 5;

/**
 * @returns what it took, and what it printed
 * @throws {Error} with what the program said, when it fails
 */
export async function measure(command: readonly string[]): Promise<Usage & { readonly output: string }> {
  const [program = "", ...args] = command;
  const cpuBefore = cpuOfChildren();
  const start = performance.now();
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  let peak = 0;
  const looking = setInterval(() => {
    peak = Math.max(peak, peakOf(child.pid));
  }, LOOK_MS);
  let end = start;
  child.once("exit", () => {
    end = performance.now();
  });
  try {
    await new Promise<void>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, signal) => {
        if (code === 0) resolve();
        else reject(new Error(`${command.join(" ")} ended with ${code ?? signal}: ${said}`));
      });
    });
  } finally {
    clearInterval(looking);
  }
  return { wall: (end - start) / 1000, cpu: cpuOfChildren() - cpuBefore, peak, output };
}

/** Runs a program that is not measured. @returns what it printed */
export function must(program: string, ...args: readonly string[]): string {
  const { error, status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8" });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${status}: ${stdout}${stderr}`);
  return stdout;
}

/** After the program's name, which may hold anything, fields are separated by one space; cutime and cstime are 16 and 17. */
function cpuOfChildren(): number {
  const stat = readFileSync("/proc/self/stat", "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) / TICKS_A_SECOND;
}

/** 0 before the program has begun and after it has ended. */
function peakOf(pid: number | undefined): number {
  try {
    const kibibytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1];
    return Number(kibibytes ?? 0) * 1024;
  } catch {
    return 0;
  }
}
