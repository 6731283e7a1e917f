/** Domains and their disks as lines for people. */
import type { Domain, RouteResult } from "../api/index.ts";
import { hasEnded } from "../jobs/index.ts";
import { withDaemon } from "./daemon-link.ts";
import type { DaemonFlags } from "./daemon-options.ts";
import { jobLines } from "./disk-lines.ts";
import { columns, printJson, printLines, sizeWithBytes } from "./output.ts";

/** A table of domains, or a sentence when there are none. */
export function domainsTable(domains: readonly Domain[]): string[] {
  if (domains.length === 0) return ["There are no domains: add one with 'streamdisk domain add'"];
  const rows = domains.map((domain) => [
    domain.name,
    domain.pause === undefined ? domain.state : `${domain.state} (${domain.pause.code})`,
    domain.machine?.pid === undefined ? "-" : String(domain.machine.pid),
    domain.disks.map(({ target }) => target).join(", ") || "-",
    domain.machine?.pid === undefined ? (domain.machine?.end?.reason ?? monitorOf(domain)) : monitorOf(domain),
  ]);
  return columns([["NAME", "STATE", "PID", "DISKS", "MONITOR OR LAST END"], ...rows]);
}

/** By which socket its QEMU is spoken to, or which domain of libvirt's it is. */
function monitorOf({ qmp, libvirt }: Domain): string {
  return libvirt === undefined ? (qmp ?? "-") : `${libvirt.name} of ${libvirt.connect}`;
}

/** All of one domain. */
export function domainLines(domain: Domain): string[] {
  const { name, state, error, pause, libvirt, machine, disks } = domain;
  const lines = [`domain: ${name}`, `state: ${state}`];
  for (const warning of domain.warnings ?? []) lines.push(`warning: ${warning}`);
  if (pause !== undefined) {
    const since = new Date(pause.since).toISOString();
    lines.push(`paused: ${pause.code}, since ${since}: ${pause.reason}`);
  }
  if (error !== undefined) lines.push(`error: ${error.message}`);
  const reached = `${libvirt === undefined ? "QMP socket" : "libvirt domain"}: ${monitorOf(domain)}`;
  lines.push(...(machine === undefined ? [reached] : machineLines(machine)));
  if (disks.length === 0) return lines;
  const rows = disks.map(({ target, alias, format, image, backing, stream }) => [
    target,
    alias ?? "-",
    format ?? "-",
    image ?? "-",
    backing ?? "-",
    stream === undefined || hasEnded(stream) ? "-" : stream.state,
  ]);
  return [...lines, "", ...columns([["TARGET", "ALIAS", "FORMAT", "IMAGE", "BACKING FILE", "STREAM"], ...rows])];
}

function machineLines(machine: NonNullable<Domain["machine"]>): string[] {
  const { pid, end, startedAt, accelerator, memory, cpus, autostart, console, consoleLog, log } = machine;
  const lines: string[] = [];
  if (pid !== undefined) lines.push(`pid: ${pid}`);
  else if (end !== undefined) lines.push(`last end: ${end.reason} (${new Date(end.at).toISOString()})`);
  if (startedAt !== undefined) lines.push(`started: ${new Date(startedAt).toISOString()}`);
  if (accelerator !== undefined) lines.push(`accelerator: ${accelerator}`);
  lines.push(`memory: ${sizeWithBytes(memory)}`, `CPUs: ${cpus}`, `autostart: ${autostart ? "yes" : "no"}`);
  if (pid !== undefined) lines.push(`console: ${console}`);
  return [...lines, `console log: ${consoleLog}`, `QEMU's log: ${log}`];
}

/** Shows a disk of a domain, as `info` does. */
export async function showDomainDisk(domain: string, device: string, flags: DaemonFlags): Promise<void> {
  const disk = await withDaemon(flags, (client) => client.call("domainDisk", { params: { domain, device } }));
  if (flags.json) printJson(disk);
  else printLines(...domainDiskLines(disk));
}

function domainDiskLines(disk: RouteResult<"domainDisk">): string[] {
  const { name, alias, format, image, backing, length, localBytes, missingBytes, hydrated, error, stream } = disk;
  const lines = [`disk: ${name}${alias === undefined ? "" : ` (${alias})`}`];
  if (image !== undefined) lines.push(`image: ${image}${format === undefined ? "" : ` (${format})`}`);
  if (backing !== undefined && !hydrated) lines.push(`backing file: ${backing}`);
  lines.push(`virtual size: ${sizeWithBytes(length)}`);
  lines.push(`local: ${sizeWithBytes(localBytes)}`, `missing: ${sizeWithBytes(missingBytes)}`);
  if (error !== undefined) lines.push(`as last known, since: ${error.message}`);
  if (stream !== undefined) lines.push(...jobLines(stream));
  return lines;
}
