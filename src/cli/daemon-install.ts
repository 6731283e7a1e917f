/** `daemon install`: writes the unit by which systemd runs the daemon, and says what to do next. It starts nothing. */
import { existsSync } from "node:fs";
import { mkdir, readFile, realpath, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { type DaemonSettings, readSettings, type SystemdUnitOptions, systemdUnit, UNIT_NAME } from "../daemon/index.ts";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { nativeCalls, nativeProblem } from "../host/index.ts";
import { printJson, printLines, printWarnings } from "./output.ts";

export interface InstallFlags {
  readonly config?: string;
  readonly user?: boolean;
  readonly print?: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

/** What decides where the daemon finds its settings and its state; a user's systemd may have others than the shell. */
const KEPT_VARIABLES = ["XDG_CONFIG_HOME", "XDG_STATE_HOME"];

export async function installDaemon(flags: InstallFlags): Promise<void> {
  const root = process.getuid?.() === 0;
  const scope = root && !flags.user ? "system" : "user";
  const file = flags.config === undefined ? undefined : await realpathOf(flags.config);
  const settings = await readSettings(file === undefined ? {} : { file });
  const notifies = nativeCalls() !== undefined;
  if (!notifies) {
    printWarnings([`systemd will not know when the daemon is ready, nor whether it hangs: ${nativeProblem()}`]);
  }
  const unit = systemdUnit({
    settings,
    command: [process.execPath, await realpath(process.argv[1] ?? ""), "daemon", ...(file ? ["--config", file] : [])],
    scope,
    notifies,
    environment: root ? {} : keptVariables(),
  });
  const path = join(unitDirectory(scope), UNIT_NAME);
  const written = flags.print ? false : await install(path, unit, settings, flags.force === true);
  const next = nextCommands(scope);
  // As sd_booted(3) finds out.
  if (!existsSync("/run/systemd/system")) {
    printWarnings([
      "systemd does not run this machine: nothing starts the daemon until it does, or until something else runs 'streamdisk daemon' and starts it again when it ends",
    ]);
  }
  if (flags.json) printJson({ path, written, unit, next });
  else if (flags.print) process.stdout.write(unit);
  else printLines(...report(path, written, scope, next));
}

function keptVariables(): Record<string, string> {
  return Object.fromEntries(
    KEPT_VARIABLES.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}

function unitDirectory(scope: SystemdUnitOptions["scope"]): string {
  if (scope === "system") return "/etc/systemd/system";
  return join(process.env["XDG_CONFIG_HOME"] ?? join(homedir(), ".config"), "systemd/user");
}

function nextCommands(scope: SystemdUnitOptions["scope"]): string[] {
  const systemctl = scope === "system" ? "systemctl" : "systemctl --user";
  return [`${systemctl} daemon-reload`, `${systemctl} enable --now ${UNIT_NAME}`];
}

/**
 * @returns whether anything had to be written
 * @throws {StreamdiskError} `exists` when another unit is there
 */
async function install(path: string, unit: string, settings: DaemonSettings, force: boolean): Promise<boolean> {
  // systemd starts nothing whose writable directories are not there.
  for (const directory of [settings.stateDirectory, settings.imageDirectory, dirname(settings.socket)]) {
    await makeDirectory(directory, 0o700);
  }
  const found = await textOf(path);
  if (found === unit) return false;
  if (found !== undefined && !force) {
    const message = `'${path}' is there and is another unit: --print shows the one that it would be, --force replaces it`;
    throw new StreamdiskError("exists", message, { node: path });
  }
  await makeDirectory(dirname(path), 0o755);
  const unfinished = `${path}.new`;
  try {
    await writeFile(unfinished, unit, { mode: 0o644 });
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    throw wrapSystemError(error, path, "write");
  }
  return true;
}

function report(path: string, written: boolean, scope: SystemdUnitOptions["scope"], next: readonly string[]): string[] {
  const done = written ? `'${path}' is written` : `'${path}' is there already, as it has to be`;
  const lines = [`${done}. Next:`, ...next.map((command) => `  ${command}`)];
  if (scope === "system") return lines;
  return [...lines, "It runs while you are logged in; for ever with:", "  loginctl enable-linger"];
}

async function realpathOf(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    throw wrapSystemError(error, path, "read the settings file");
  }
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw wrapSystemError(error, path, "read");
  }
}

async function makeDirectory(path: string, mode: number): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode });
  } catch (error) {
    throw wrapSystemError(error, path, "make the directory");
  }
}
