/**
 * The unit by which systemd runs the daemon (systemd.service(5), systemd.exec(5)).
 *
 * - It says when all is served (`Type=notify`) and that it is alive (`WatchdogSec=`); without native calls it can do neither.
 * - Whatever it ends of, it is started again, for ever: guests wait for it. Only wrong settings do not mend themselves.
 * - Machines that it runs live on over its end, and one that the kernel ends for want of memory does not end the daemon.
 * - Its end takes as long as guests need for their last replies; after that it is killed, which costs no acknowledged write.
 * - As a system service it starts before the machines that use its disks and ends after them, and may write where its settings say
 *   and nowhere else. A user's systemd cannot promise that much everywhere.
 */
import { dirname } from "node:path";
import { isUri } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DaemonSettings } from "./settings.ts";

export interface SystemdUnitOptions {
  readonly settings: DaemonSettings;
  /** Program and arguments; the program by its absolute path. */
  readonly command: readonly string[];
  /** Of a user's systemd, or of the machine's. */
  readonly scope: "user" | "system";
  /** Whether the daemon can tell systemd how it is. */
  readonly notifies: boolean;
  /** What of the environment decides where the daemon finds things. */
  readonly environment: Readonly<Record<string, string>>;
}

/** Name of the unit. */
export const UNIT_NAME = "streamdisk.service";

const WATCHDOG_S = 60;
/** Many disks with clients that do not take their replies: eight at a time, ten seconds each (`DRAIN_MS`). */
const STOP_S = 300;
/** Exit code for wrong settings. */
const EXIT_USAGE = 64;

/** @throws {StreamdiskError} `invalid-argument` for a path that no unit can hold */
export function systemdUnit(options: SystemdUnitOptions): string {
  const { scope } = options;
  const sections = {
    Unit: unitSection(scope),
    Service: serviceSection(options),
    Install: [`WantedBy=${scope === "system" ? "multi-user.target" : "default.target"}`],
  };
  const text = Object.entries(sections).map(([name, lines]) => [`[${name}]`, ...lines, ""].join("\n"));
  return `# Written by 'streamdisk daemon install'.\n\n${text.join("\n")}`;
}

function unitSection(scope: SystemdUnitOptions["scope"]): string[] {
  const lines = ["Description=streamdisk daemon: disks that fill while they are used", "StartLimitIntervalSec=0"];
  if (scope === "user") return lines;
  return [
    ...lines,
    "Wants=network-online.target",
    "After=network-online.target remote-fs.target",
    "Before=libvirtd.service virtqemud.service libvirt-guests.service",
  ];
}

function serviceSection({ settings, command, scope, notifies, environment }: SystemdUnitOptions): string[] {
  const started = command.map((word) => quoted(word).replaceAll("$", "$$$$"));
  return [
    ...(notifies ? ["Type=notify", "NotifyAccess=main", `WatchdogSec=${WATCHDOG_S}`] : ["Type=exec"]),
    ...Object.entries(environment).map(([name, value]) => `Environment=${quoted(`${name}=${value}`)}`),
    `ExecStart=${started.join(" ")}`,
    "Restart=always",
    "RestartSec=1",
    `RestartPreventExitStatus=${EXIT_USAGE}`,
    "KillMode=process",
    "OOMPolicy=continue",
    `TimeoutStopSec=${STOP_S}`,
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    ...(scope === "system" ? confined(settings) : []),
  ];
}

/**
 * The log of acknowledged writes is in /dev/shm, which stays writable. Devices stay open to it, since images may be block devices: what
 * sets a `DeviceAllow=` would close them (`ProtectClock=` does).
 */
function confined(settings: DaemonSettings): string[] {
  return [
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    ...writablePlaces(settings),
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "RestrictNamespaces=yes",
  ];
}

/**
 * The daemon's own directories have to be there; of what it may open beside, what is not there is not missed. Directories for sockets by
 * which QEMUs of any user are filled lie in /tmp.
 */
function writablePlaces(settings: DaemonSettings): string[] {
  const { stateDirectory, imageDirectory, socket, tokenFile, listen, allow } = settings;
  const own = [
    "/tmp",
    stateDirectory,
    imageDirectory,
    dirname(socket),
    ...(listen === undefined ? [] : [dirname(tokenFile)]),
  ];
  const others = allow.filter((place) => !isUri(place)).map((place) => `-${place}`);
  return [...new Set([...own, ...others])].map((place) => `ReadWritePaths=${quoted(place)}`);
}

/** A word of a unit (systemd.syntax(7), "Quoting"; systemd.unit(5), "Specifiers"). */
function quoted(word: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(word)) {
    throw new StreamdiskError(
      "invalid-argument",
      `A unit cannot hold ${JSON.stringify(word)}: it has control characters`,
    );
  }
  const plain = word.replaceAll("%", "%%");
  return /^[\w@%+=:,./-]+$/.test(plain) ? plain : `"${plain.replaceAll(/[\\"]/g, "\\$&")}"`;
}
