/** Programs run to their end beside what the test itself does: clients of a server that lives in the test's process. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import type { Ended } from "./qemu.ts";

const living = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of living) child.kill("SIGKILL");
});

/** Runs a program to its end, whatever that is. */
export function runPeer(program: string, ...args: readonly string[]): Promise<Ended> {
  // nbdsh must find the Python that its module was made for, and no other.
  const env = program === "nbdsh" ? { ...process.env, PATH: "/usr/bin:/bin" } : process.env;
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env });
  living.add(child);
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status) => {
      living.delete(child);
      resolve({ status, stdout, stderr });
    });
  });
}

/** Runs a program, which must succeed. @returns what it printed */
export async function peer(program: string, ...args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await runPeer(program, ...args);
  assert.equal(status, 0, `${program} ${args.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

/** Runs a program, which must fail. @returns what it said */
export async function refusedPeer(program: string, ...args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await runPeer(program, ...args);
  assert.notEqual(status, 0, `${program} ${args.join(" ")}: ${stdout}${stderr}`);
  return stdout + stderr;
}
