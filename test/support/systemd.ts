/**
 * A real systemd, process 1 of a world of its own: its processes, mounts, `/run` and control groups are apart from those of the machine, and
 * end with it. Its units lie in a directory of the test, mounted over `/etc/systemd/system`; files are the machine's otherwise. Takes root.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const CGROUPS = "/sys/fs/cgroup";
/** Without anything in them: what units are started after, and end before. */
const TARGETS = ["default", "basic", "sysinit", "shutdown", "multi-user", "umount", "final"];

/** What process 1 does before it is systemd, in its own namespaces. */
const BECOME = `
set -e
mount --make-rprivate /
mount --bind "$UNITS" /etc/systemd/system
umount -l ${CGROUPS}
if [ "$HYBRID" = yes ]; then
  mount -t tmpfs -o mode=755 cgroups ${CGROUPS}
  mkdir ${CGROUPS}/systemd ${CGROUPS}/unified
  mount -t cgroup -o none,name=systemd cgroup ${CGROUPS}/systemd
  mount -t cgroup2 cgroup2 ${CGROUPS}/unified || true
else
  mount -t cgroup2 cgroup2 ${CGROUPS}
fi
mount -t tmpfs run /run
mkdir -p /run/systemd /run/lock
export container=streamdisk SYSTEMD_UNIT_PATH=/etc/systemd/system SYSTEMD_LOG_TARGET=console
exec /lib/systemd/systemd --system --unit=default.target
`;

export class Systemd implements AsyncDisposable {
  readonly #unshare: ChildProcess;
  readonly #pid: number;
  readonly #group: string;
  readonly #said: string[];

  private constructor(unshare: ChildProcess, pid: number, group: string, said: string[]) {
    this.#unshare = unshare;
    this.#pid = pid;
    this.#group = group;
    this.#said = said;
  }

  /** @param directory where its units are to lie, in `units` */
  static async start(directory: string): Promise<Systemd> {
    const units = join(directory, "units");
    mkdirSync(units);
    for (const name of TARGETS) {
      writeFileSync(join(units, `${name}.target`), `[Unit]\nDescription=${name}\nDefaultDependencies=no\n`);
    }
    const hybrid = existsSync(join(CGROUPS, "systemd/cgroup.procs"));
    const group = join(CGROUPS, hybrid ? "systemd" : "", `streamdisk-${process.pid}`);
    mkdirSync(group);
    const enter = `echo $$ > "$GROUP/cgroup.procs"; exec unshare -C -m -p -f -u -i --kill-child --mount-proc sh -c "$BECOME"`;
    const env = { ...process.env, UNITS: units, GROUP: group, HYBRID: hybrid ? "yes" : "no", BECOME };
    const unshare = spawn("sh", ["-c", enter], { env, stdio: ["ignore", "pipe", "pipe"] });
    const said: string[] = [];
    for (const stream of [unshare.stdout, unshare.stderr]) stream.on("data", (text) => said.push(String(text)));
    const one = await childOf(unshare, said);
    const systemd = new Systemd(unshare, one, group, said);
    process.once("exit", () => unshare.kill("SIGKILL"));
    while (systemd.run("systemctl", "is-system-running").stdout.trim() !== "running") {
      if (unshare.exitCode !== null) throw new Error(`systemd has ended: ${said.join("")}`);
      await sleep(100);
    }
    return systemd;
  }

  /** Runs a command in its world. */
  run(...command: string[]): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
    return spawnSync("nsenter", ["-t", String(this.#pid), "-C", "-m", "-p", "-u", "-i", ...command], {
      encoding: "utf8",
    });
  }

  /** @throws with what it said when it failed */
  ok(...command: string[]): string {
    const { status, stdout, stderr } = this.run(...command);
    if (status === 0) return stdout;
    throw new Error(`${command.join(" ")} failed (${status}): ${stdout}${stderr}${this.#said.join("")}`);
  }

  /** A property of a unit. */
  show(unit: string, property: string): string {
    return this.ok("systemctl", "show", "-P", property, unit).trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#unshare.once("close", resolve));
    this.#unshare.kill("SIGKILL");
    await ended;
    while (!removeGroups(this.#group)) await sleep(50);
  }
}

/** Process 1 of the new world, as it is called outside, when it is systemd. */
async function childOf(unshare: ChildProcess, said: readonly string[]): Promise<number> {
  for (;;) {
    if (unshare.exitCode !== null) throw new Error(`there is no systemd: ${said.join("")}`);
    const children = readFileSync(`/proc/${unshare.pid}/task/${unshare.pid}/children`, "utf8").trim();
    if (children !== "" && readFileSync(`/proc/${children}/comm`, "utf8").trim() === "systemd") return Number(children);
    await sleep(50);
  }
}

/** @returns false while the last processes are on their way out */
function removeGroups(path: string): boolean {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory() && !removeGroups(join(path, entry.name))) return false;
  }
  try {
    rmdirSync(path);
    return true;
  } catch {
    return false;
  }
}
