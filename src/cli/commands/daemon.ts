import { isIP } from "node:net";
import type { Command } from "commander";
import { readSettings, type SettingsFlags, startDaemon } from "../../daemon/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { type InstallFlags, installDaemon } from "../daemon-install.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { daemonStatus, EXIT_NONE } from "../daemon-status.ts";
import { helpAfter } from "../help.ts";
import { Interrupted, interruptible } from "../interrupt.ts";
import { parseCount, parseMode, parsePort } from "../numbers.ts";
import { jsonOption, type SourceFlags, sourceOptions, told } from "../options.ts";
import { printJsonLine, printLines, printWarnings } from "../output.ts";
import { placeForDaemon } from "../targets.ts";
import { parseRate } from "../units.ts";
import { packageVersion } from "../version.ts";

interface Flags extends SourceFlags {
  readonly stateDirectory?: string;
  readonly imageDirectory?: string;
  readonly config?: string;
  readonly socket?: string;
  readonly socketMode?: number;
  readonly socketGroup?: string;
  readonly diskSocketMode?: number;
  readonly diskSocketGroup?: string;
  readonly port?: number;
  readonly bind?: string;
  readonly tokenFile?: string;
  readonly tlsCertificates?: string;
  readonly allow?: readonly string[];
  readonly allowKeys?: readonly string[];
  readonly maxStreams?: number;
  readonly speed?: number;
  readonly hostSpeed?: number;
  readonly sourceSpeed?: number;
  readonly sourceLimit?: NonNullable<SettingsFlags["sources"]>;
  readonly keepEvents?: number;
  readonly keepJobs?: number;
  readonly emulator?: string;
  readonly accelerator?: NonNullable<SettingsFlags["accelerator"]>;
  readonly refuseQemuArguments?: boolean;
  readonly logLevel?: NonNullable<SettingsFlags["logLevel"]>;
  readonly rebuildStore?: boolean;
  readonly json?: boolean;
}

const LOG_LEVELS = ["debug", "info", "warn", "error", "silent"] as const;

export function define(command: Command): void {
  command
    .addHelpText(
      "before",
      "Keeps disks for good: over restarts, kill -9 and reboots. For one disk, until Ctrl-C: serve.\n",
    )
    .option(
      "--state-directory <dir>",
      "where it remembers; without it /var/lib/streamdisk for root, else in ~/.local/state",
    )
    .option("--config <file>", "settings (JSON); without it /etc/streamdisk/daemon.json for root, else in ~/.config")
    .option("--image-directory <dir>", "where it makes images; without it 'images' in the state directory")
    .option(
      "--allow <place>",
      "path or beginning of a URI that images and sources may lie below too (repeatable)",
      more,
    )
    .option("--allow-keys <path>", "certificates and keys that exports may use, no place of images (repeatable)", more)
    .option("--socket <path>", "Unix socket of the API; without it 'daemon.sock' in the state directory")
    .option("--socket-mode <mode>", "permissions of that socket, octal; without it 600, with a group 660", parseMode)
    .option("--socket-group <gid>", "group of that socket, by name or number")
    .option(
      "--disk-socket-mode <mode>",
      "the same of the sockets of disks and exports, for a QEMU of another user",
      parseMode,
    )
    .option("--disk-socket-group <gid>", "group of those sockets, by name or number")
    .option("--port <number>", "the API on TCP too; 0 takes a free port", parsePort)
    .option("--bind <address>", "with --port: the address to listen on; without it, loopback")
    .option(
      "--token-file <file>",
      "what callers over TCP must know, made if it is not there; without it 'token' in the state directory",
    )
    .option("--tls-certificates <dir>", "the API over TCP by TLS, with server-cert.pem and server-key.pem from there")
    .option("--max-streams <number>", "streams that run at once; without it, 4", parseCount)
    .option("--speed <rate>", "bytes a second at most of a stream that says none, for example 50M", parseRate)
    .option("--host-speed <rate>", "bytes a second of all streams together; guests' reads are not counted", parseRate)
    .option("--source-speed <rate>", "bytes a second of all streams from one source together", parseRate)
    .option(
      "--source-limit <place=rate>",
      "the same of a path or the beginning of a URI with all below it (repeatable)",
      moreLimits,
    )
    .option("--emulator <path>", "QEMU's program for machines; without it qemu-system-ARCH on the PATH")
    .option(
      "--accelerator <kvm|tcg>",
      "what runs machines that do not say; without it KVM where it can",
      parseAccelerator,
    )
    .option("--refuse-qemu-arguments", "machines have no arguments of QEMU's of their own, which --allow does not bind")
    .option("--keep-events <number>", "how many events are remembered; without it, 10000", parseCount)
    .option("--keep-jobs <number>", "how many streams that have ended are remembered; without it, 1000", parseCount)
    .option("--log-level <level>", `${LOG_LEVELS.join(", ")}; without it, info`, parseLevel)
    .option(
      "--rebuild-store",
      "when the structure of what it remembers is damaged: keep that aside, and begin anew with what can be read and the images there are",
    );
  sourceOptions(command)
    .option("--json", "print where it listens as JSON")
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk daemon",
        "streamdisk daemon --state-directory ./state --allow ./images --allow https://images.example/",
        "streamdisk daemon --port 8080 --max-streams 8 --json",
        "streamdisk daemon install",
        "streamdisk daemon status",
      ]),
    )
    .action(run);
  defineInstall(command);
  defineStatus(command);
}

function defineInstall(parent: Command): void {
  const install = parent
    .command("install")
    .summary("have systemd run it")
    .description("Write a systemd unit that runs the daemon with the settings of its file, and start nothing.")
    .option("--config <file>", "settings (JSON); without it those that a daemon of this user would have")
    .option("--user", "for root: a unit of root's own systemd instead of the machine's")
    .option("--print", "print the unit and write nothing")
    .option("--force", "replace a unit that is there and differs");
  jsonOption(install)
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk daemon install",
        "streamdisk daemon install --config /etc/streamdisk/images.json --print",
      ]),
    )
    .action((flags: InstallFlags) => installDaemon(flags));
}

function defineStatus(parent: Command): void {
  const status = parent
    .command("status")
    .summary("show whether one runs")
    .description("Show whether a daemon runs, where, since when, and what it has to do.");
  jsonOption(daemonOptions(status))
    .addHelpText(
      "after",
      helpAfter(["streamdisk daemon status", "streamdisk daemon status --json | jq .streams"], {
        0: "it runs",
        [EXIT_NONE]: "none runs there",
      }),
    )
    .action((flags: DaemonFlags) => daemonStatus(flags));
}

async function run(flags: Flags): Promise<void> {
  const file = flags.config === undefined ? {} : { file: flags.config };
  const settings = await readSettings({ ...file, flags: settingsFlags(flags) });
  try {
    await interruptible(async (signal) => {
      const daemon = await startDaemon(settings, {
        version: packageVersion(),
        ...(flags.rebuildStore !== undefined && { rebuildStore: flags.rebuildStore }),
      });
      try {
        printWarnings(daemon.notes);
        const { addresses, page, disks, exports } = daemon;
        if (flags.json) printJsonLine({ event: "listening", addresses, disks, exports });
        else {
          printLines(`Listening at ${addresses.join(" and ")}; ${disks} disks and ${exports} exports are served`);
          // What others read later, such as a journal, is no place for the token.
          if (page !== undefined && process.stdout.isTTY) printLines(`Look at it: ${page.withToken}`);
          else if (page !== undefined) printLines(`Look at it: ${page.url} (the token is in '${settings.tokenFile}')`);
        }
        await new Promise((_, reject) => {
          if (signal.aborted) reject(signal.reason);
          signal.addEventListener("abort", () => reject(signal.reason), { once: true });
        });
      } finally {
        await daemon.close();
      }
    });
  } catch (error) {
    // To be asked to end is no failure.
    if (Interrupted.behind(error) === undefined) throw error;
    if (!flags.json) printLines("All is closed in order; it goes on where it was when it is started again");
  }
}

/** Flags that are settings as they are. */
const SETTINGS = [
  "stateDirectory",
  "imageDirectory",
  "allow",
  "allowKeys",
  "socket",
  "socketMode",
  "socketGroup",
  "diskSocketMode",
  "diskSocketGroup",
  "tokenFile",
  "tlsCertificates",
  "maxStreams",
  "speed",
  "hostSpeed",
  "sourceSpeed",
  "emulator",
  "accelerator",
  "refuseQemuArguments",
  "logLevel",
] as const satisfies readonly (keyof Flags & keyof SettingsFlags)[];

function settingsFlags(flags: Flags): SettingsFlags {
  const { port, bind, maxStreams, keepEvents, keepJobs, sourceLimit } = flags;
  if (bind !== undefined && port === undefined) {
    throw new StreamdiskError("invalid-argument", "Option '--bind' needs '--port'");
  }
  if (bind !== undefined && isIP(bind) === 0) {
    throw new StreamdiskError("invalid-argument", `Option '--bind' takes an IP address, and '${bind}' is none`);
  }
  if (maxStreams === 0) throw new StreamdiskError("invalid-argument", "At least one stream must be able to run");
  const said = {
    ...Object.fromEntries(SETTINGS.map((name) => [name, flags[name]])),
    sources: sourceLimit,
    sourceOptions: told(flags),
    listen: port === undefined ? undefined : { host: bind ?? "127.0.0.1", port },
    keep: { events: keepEvents, jobs: keepJobs },
  };
  return said as SettingsFlags;
}

function parseAccelerator(text: string): NonNullable<SettingsFlags["accelerator"]> {
  if (text === "kvm" || text === "tcg") return text;
  throw new StreamdiskError("invalid-argument", `There is no accelerator '${text}': it can be kvm or tcg`);
}

function more(place: string, before: readonly string[] = []): readonly string[] {
  return [...before, place];
}

/** A URI may have `=` in it, a rate has none. */
function moreLimits(text: string, before: NonNullable<SettingsFlags["sources"]> = {}) {
  const at = text.lastIndexOf("=");
  if (at > 0) return { ...before, [placeForDaemon(text.slice(0, at))]: { speed: parseRate(text.slice(at + 1)) } };
  throw new StreamdiskError("invalid-argument", `'${text}' is no limit: write for example nbd://images.example/=50M`);
}

function parseLevel(text: string): (typeof LOG_LEVELS)[number] {
  const level = LOG_LEVELS.find((name) => name === text);
  if (level !== undefined) return level;
  throw new StreamdiskError("invalid-argument", `'${text}' is no level of a log; use ${LOG_LEVELS.join(", ")}`);
}
