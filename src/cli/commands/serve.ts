import { spawn } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { constants } from "node:os";
import { resolve } from "node:path";
import type { Command } from "commander";
import { type DiskInfo, type ServeDiskOptions, type ServedDisk, serveDisk } from "../../engine/index.ts";
import { StreamdiskError, wrapSystemError } from "../../errors/index.ts";
import type { SourcePolicy } from "../../filters/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { shownReference } from "../../sources/index.ts";
import { helpAfter } from "../help.ts";
import { Interrupted, interruptible } from "../interrupt.ts";
import { parseCount, parseMode, parsePort } from "../numbers.ts";
import { type ImageFlags, imageOptions, openedAs, parseFormat } from "../options.ts";
import { calledCommand, printJsonLine, printLines, printWarnings, shellWord } from "../output.ts";
import { ServeStatus } from "../serve-report.ts";
import { parseSourcePolicy } from "../source-policy.ts";
import { imageReference } from "../targets.ts";
import { parseRate, parseSize } from "../units.ts";

interface Flags extends ImageFlags {
  readonly backing?: string;
  readonly backingFormat?: FormatName;
  readonly create?: boolean;
  readonly size?: number;
  readonly socket?: string;
  readonly port?: number;
  readonly bind?: string;
  readonly export: string;
  readonly readOnly?: boolean;
  readonly stream?: boolean;
  readonly speed?: number;
  readonly copyOnRead: boolean;
  readonly onSourceError?: SourcePolicy;
  readonly socketMode?: number;
  readonly socketGroup?: string;
  readonly tlsCertificates?: string;
  readonly tlsPskFile?: string;
  readonly maxConnections?: number;
  readonly pidFile?: string;
  readonly exitWhenHydrated?: boolean;
  readonly run?: string;
}

export function define(command: Command): void {
  command
    .addHelpText("before", "For one disk, until Ctrl-C. To keep disks for good, over restarts and reboots: daemon.\n")
    .argument("<image>", "the image to serve, or the URI of one")
    .option("--backing <ref>", "backing file, in place of what the image says; a new image records it")
    .option("--backing-format <format>", "format of the backing file", parseFormat)
    .option("--create", "make the image when it is not there yet")
    .option("--size <size>", "with --create: virtual size; without it, that of the backing file", parseSize)
    .option("--socket <path>", "listen on a Unix socket there; without it and --port, on a private one")
    .option("--port <number>", "listen on TCP; 0 takes a free port", parsePort)
    .option("--bind <address>", "with --port: the address to listen on; without it, loopback")
    .option("--export <name>", "name of the export", "")
    .option("-r, --read-only", "guests can only read")
    .option("--stream", "fetch what is missing while guests run, then break the link to the backing file")
    .option("--speed <rate>", "with --stream: bytes a second at most, for example 50M", parseRate)
    .option("--no-copy-on-read", "do not keep what guests read from the backing file")
    .option(
      "--on-source-error <policy>",
      "what a read of a lost source gets: hold, hold:30s,error, hold:30s,pause, pause or error; without it, hold:30s,error",
      parseSourcePolicy,
    )
    .option("--socket-mode <mode>", "permissions of the socket, octal; without it 600, with a group 660", parseMode)
    .option("--socket-group <gid>", "group of the socket, by name or number")
    .option("--tls-certificates <dir>", "TLS with ca-cert.pem, server-cert.pem and server-key.pem from there")
    .option("--tls-psk-file <file>", "TLS with pre-shared keys from there")
    .option("--max-connections <number>", "clients at a time at most", parseCount)
    .option("--pid-file <file>", "write the process id there while the disk is served")
    .option("--exit-when-hydrated", "with --stream: end when the disk needs its backing file no more")
    .option("--run <command>", "run a shell command with $uri and $socket set, and end with it");
  imageOptions(command)
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk serve vm1.qcow2 --stream",
        "streamdisk serve vm1.qcow2 --create --backing debian.qcow2 --stream --speed 50M",
        "streamdisk serve vm1.qcow2 --port 10809 --on-source-error hold:1m,error",
        "streamdisk serve vm1.qcow2 --run 'qemu-img convert -O raw $uri copy.raw'",
      ]),
    )
    .action(serve);
}

async function serve(image: string, flags: Flags): Promise<void> {
  refuseLoneFlags(flags);
  const options = serveOptions(imageReference(image), flags);
  try {
    await interruptible(async (signal) => {
      await using disk = await serveDisk(options);
      const status = new ServeStatus(disk, flags.json === true);
      using _pidFile = pidFile(flags.pidFile);
      const info = await disk.info();
      announce(disk, info, flags);
      status.begin();
      try {
        await untilTheEnd(disk, info, flags, signal);
      } finally {
        status.end();
      }
    });
  } catch (error) {
    const interrupted = Interrupted.behind(error);
    if (interrupted === undefined) throw error;
    goOn(shownReference(options.image), flags);
    // Nobody waited for another end than this.
    if (flags.run !== undefined || flags.exitWhenHydrated) process.exitCode = interrupted.exit;
  }
}

function serveOptions(image: string, flags: Flags): ServeDiskOptions {
  const { backing, backingFormat, create, size, readOnly, copyOnRead, onSourceError } = flags;
  return {
    image,
    ...defined(openedAs(flags)),
    exportName: flags.export,
    copyOnRead,
    ...defined({ backing, backingFormat, create, size, readOnly, onSourceError, listen: listenOf(flags) }),
    ...defined({ maxConnections: flags.maxConnections, tls: tlsOf(flags) }),
    ...(flags.stream && { stream: defined({ speed: flags.speed }) }),
  };
}

/** Serves until there is a reason to end. */
async function untilTheEnd(disk: ServedDisk, info: DiskInfo, flags: Flags, signal: AbortSignal): Promise<void> {
  const ends: Promise<unknown>[] = [stopped(signal), lost(disk)];
  const over = new AbortController();
  if (flags.run !== undefined) ends.push(run(flags.run, disk, over.signal));
  if (flags.exitWhenHydrated) ends.push(info.hydrated ? Promise.resolve() : disk.hydrated());
  try {
    await Promise.race(ends);
  } finally {
    // A command that still runs has no disk any more.
    over.abort();
  }
}

function stopped(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

function lost(disk: ServedDisk): Promise<never> {
  return new Promise((_, reject) => disk.once("lost", reject));
}

/**
 * Runs a command beside the export; its exit code becomes ours. All that it has started is ended with it, as a group of processes,
 * unless its input is a terminal: there it has to stay in the group in front, which Ctrl-C reaches as a whole anyway.
 */
function run(command: string, disk: ServedDisk, signal: AbortSignal): Promise<void> {
  const { uri } = disk;
  const env = { ...process.env, uri, socket: disk.socketPath ?? "" };
  const detached = !process.stdin.isTTY;
  const child = spawn("/bin/sh", ["-c", command], { stdio: "inherit", env, detached });
  const end = (): void => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    process.kill(detached ? -child.pid : child.pid, "SIGTERM");
  };
  signal.addEventListener("abort", end, { once: true });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, ended) => {
      if (!signal.aborted) process.exitCode = code ?? 128 + (ended === null ? 0 : constants.signals[ended]);
      resolve();
    });
  });
}

function announce(disk: ServedDisk, info: DiskInfo, flags: Flags): void {
  printWarnings(info.warnings);
  const blockdev = disk.qemuBlockdev();
  if (flags.json) {
    printJsonLine({ event: "serving", uri: disk.uri, blockdev, libvirt: oneLine(disk.libvirtDisk()), info });
    return;
  }
  printLines(
    `Serving '${info.image}' (${info.format}) at ${disk.uri}`,
    "",
    ...tlsObject(flags),
    `QEMU:     -blockdev ${shellWord(blockdev)}`,
    `libvirt:  ${oneLine(disk.libvirtDisk())}`,
    "",
  );
}

function oneLine(lines: readonly string[]): string {
  return lines.map((line) => line.trim()).join("");
}

/** What QEMU needs beside, of which only the client knows where it lies. */
function tlsObject({ tlsCertificates, tlsPskFile }: Flags): string[] {
  const kind = tlsCertificates !== undefined ? "x509" : tlsPskFile !== undefined ? "psk" : undefined;
  const user = kind === "psk" ? ",username=USER" : "";
  return kind === undefined ? [] : [`QEMU:     -object tls-creds-${kind},id=tls0,endpoint=client,dir=DIRECTORY${user}`];
}

/** After Ctrl-C: how it is, and how to serve on. */
function goOn(path: string, flags: Flags): void {
  if (flags.json) printJsonLine({ event: "stopped", command: calledCommand() });
  else printLines(`'${path}' is in order and keeps what was fetched. Go on with: ${calledCommand()}`);
}

/** Options that mean nothing without another. */
const NEEDS: readonly (readonly [keyof Flags, keyof Flags, string])[] = [
  ["bind", "port", "'--bind' needs '--port'"],
  ["exitWhenHydrated", "stream", "'--exit-when-hydrated' needs '--stream', or nothing would be fetched"],
  ["size", "create", "'--size' needs '--create'"],
  ["socketGroup", "socket", "'--socket-group' needs '--socket'"],
  ["socketMode", "socket", "'--socket-mode' needs '--socket'"],
  ["speed", "stream", "'--speed' needs '--stream'"],
];

function refuseLoneFlags(flags: Flags): void {
  for (const [flag, needed, message] of NEEDS) {
    if (flags[flag] !== undefined && flags[needed] === undefined) {
      throw new StreamdiskError("invalid-argument", `Option ${message}`);
    }
  }
}

function listenOf({ socket, port, bind, socketMode, socketGroup }: Flags): ServeDiskOptions["listen"] {
  if (socket !== undefined && port !== undefined) {
    throw new StreamdiskError("invalid-argument", "Options '--socket' and '--port' exclude each other");
  }
  if (bind !== undefined && isIP(bind) === 0) {
    throw new StreamdiskError("invalid-argument", `Option '--bind' takes an IP address, and '${bind}' is none`);
  }
  if (port !== undefined) return { host: bind ?? "127.0.0.1", port };
  if (socket === undefined) return undefined;
  // Whoever is to connect is elsewhere.
  return { path: resolve(socket), ...defined({ mode: socketMode, group: socketGroup }) };
}

function tlsOf({ tlsCertificates, tlsPskFile }: Flags): ServeDiskOptions["tls"] {
  if (tlsCertificates !== undefined && tlsPskFile !== undefined) {
    throw new StreamdiskError(
      "invalid-argument",
      "Options '--tls-certificates' and '--tls-psk-file' exclude each other",
    );
  }
  if (tlsCertificates !== undefined) return { certificates: tlsCertificates };
  return tlsPskFile === undefined ? undefined : { pskFile: tlsPskFile };
}

function pidFile(path: string | undefined): Disposable {
  if (path === undefined) return { [Symbol.dispose]: () => {} };
  try {
    writeFileSync(path, `${process.pid}\n`);
  } catch (error) {
    throw wrapSystemError(error, path, "write");
  }
  return { [Symbol.dispose]: () => rmSync(path, { force: true }) };
}

/** Without what is undefined: an option that was not given is not there. */
function defined<T extends object>(values: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
