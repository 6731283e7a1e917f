/** Servers in processes of their own, from when they listen until they are told to end; and what they have taken so far. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** The built program. */
export const STREAMDISK: readonly string[] = [process.execPath, join(import.meta.dirname, "../bin/streamdisk.js")];

const TICK_MS = 10;
const LOOK_MS = 10;

export interface ServerProcess extends AsyncDisposable {
  /** Milliseconds in user and system mode so far (proc(5), "stat", utime and stime). */
  cpu(): number;
  /** High-water mark of resident memory, in bytes (proc(5), "status", VmHWM). */
  peak(): number;
  /** Resident memory now, in bytes (proc(5), "status", VmRSS). */
  memory(): number;
  /** Lines of standard output so far. */
  said(): readonly string[];
}

/** Starts a server, and resolves when it listens on `socket`. It is ended, and has gone, when this is disposed of. */
export async function startServer(command: readonly string[], socket: string): Promise<ServerProcess> {
  const [program = "", ...args] = command;
  rmSync(socket, { force: true });
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = once(child, "exit");
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  while (!existsSync(socket)) {
    if (child.exitCode !== null) throw new Error(`${command.join(" ")} has ended: ${said}`);
    await sleep(LOOK_MS);
  }
  return {
    cpu() {
      const stat = readFileSync(`/proc/${child.pid}/stat`, "latin1");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
    },
    peak: () => fieldOf(child.pid, /^VmHWM:\s+(\d+) kB$/m),
    memory: () => fieldOf(child.pid, /^VmRSS:\s+(\d+) kB$/m),
    said: () => said.split("\n").slice(0, -1),
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await exited;
    },
  };
}

function fieldOf(pid: number | undefined, field: RegExp): number {
  return Number(field.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1]) * 1024;
}
