/**
 * What a guest boots, of packages: they are fetched and unpacked into a directory, which needs no rights and installs nothing.
 */
import { execFile } from "node:child_process";
import { globSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { StreamdiskError } from "../../../errors/index.ts";
import { type BootParts, bootPartsBelow } from "./boot-parts.ts";

const KERNEL = "linux-image-cloud-amd64";
const BUSYBOX = "busybox-static";
const PATIENCE_MS = 60_000;
/** There is something else to do where nothing can be fetched. */
const IMPATIENT = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"];

/**
 * Fetches the packages of a machine like Debian 12 or newer, from where its own packages come, and unpacks them.
 *
 * @param directory an empty one
 * @throws {StreamdiskError} `not-found` when there are none to be had
 */
export async function fetchBootParts(directory: string, signal: AbortSignal): Promise<BootParts> {
  const root = join(directory, "root");
  await mkdir(root);
  try {
    // The lists of packages of this machine may be missing, or too old: then others are had, which stay in the directory.
    await download(directory, IMPATIENT, signal).catch(async (error: unknown) => {
      signal.throwIfAborted();
      if (isMissing(error)) throw error;
      const own = await ownLists(directory, signal);
      await download(directory, own, signal);
    });
    for (const file of globSync(join(directory, "*.deb"))) await run("dpkg-deb", ["-x", file, root], directory, signal);
  } catch (error) {
    signal.throwIfAborted();
    const why = isMissing(error) ? "this is no Debian" : reasonOf(error);
    throw new StreamdiskError(
      "not-found",
      `The packages '${KERNEL}' and '${BUSYBOX}' cannot be had: ${why}`,
      {},
      error,
    );
  }
  const parts = bootPartsBelow(root);
  if (parts === undefined) throw new StreamdiskError("not-found", `There is no kernel in the package '${KERNEL}'`);
  return parts;
}

async function download(directory: string, options: readonly string[], signal: AbortSignal): Promise<void> {
  // The package of the name that stays the same is empty, and needs the one of the version that is the newest.
  const needs = await run("apt-cache", [...options, "depends", "--important", KERNEL], directory, signal);
  const [, versioned] = /Depends: (linux-image-\S+-cloud-amd64)$/m.exec(needs) ?? [];
  if (versioned === undefined) throw new Error(`'${KERNEL}' is unknown here`);
  await run("apt-get", [...options, "download", versioned, BUSYBOX], directory, signal);
}

/** @returns options by which apt uses them */
async function ownLists(directory: string, signal: AbortSignal): Promise<string[]> {
  const lists = join(directory, "apt");
  await mkdir(join(lists, "lists/partial"), { recursive: true });
  const own = [...IMPATIENT, "-o", `Dir::State::Lists=${join(lists, "lists")}`, "-o", `Dir::Cache=${lists}`];
  await run("apt-get", [...own, "-o", "APT::Update::Error-Mode=any", "update", "-qq"], directory, signal);
  return own;
}

async function run(command: string, args: readonly string[], cwd: string, signal: AbortSignal): Promise<string> {
  const env = { ...process.env, LC_ALL: "C" };
  const { stdout } = await promisify(execFile)(command, args, { cwd, env, signal, timeout: PATIENCE_MS });
  return stdout;
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}

/** What a command said went wrong, in one line. */
function reasonOf(error: unknown): string {
  const said = error instanceof Error && "stderr" in error ? String(error.stderr).trim().split("\n") : [];
  const line = said.find((each) => each.startsWith("E: ")) ?? said[0] ?? String(error);
  return line.replace(/^E: /, "").replace(/\s+/g, " ").trim();
}
