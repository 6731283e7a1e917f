/** Domains as the API shows them. */
import { dirname } from "node:path";
import type { Domain, DomainDisk, Job, RouteResult } from "../api/index.ts";
import {
  type DiskDescription,
  type DiskSource,
  type DomainDescription,
  type DomainMap,
  type MachinePaths,
  machinePaths,
} from "../domain/index.ts";
import type { StreamdiskError } from "../errors/index.ts";
import type { DomainRecord, MachineRecord } from "../jobs/index.ts";
import type { DomainPause } from "./domain-guard.ts";

/** The last stream of a disk of a domain, by its name. */
export type StreamOf = (name: string) => Promise<Job | undefined>;

/** How a domain is, beside its record. */
export interface DomainNow {
  readonly state: string;
  readonly description: DomainDescription;
  readonly error?: StreamdiskError;
  readonly pause?: DomainPause | undefined;
  readonly warnings?: readonly string[] | undefined;
  /** Of a machine of the daemon's own that runs. */
  readonly pid?: number;
}

export async function domainView(
  { name, qmp, libvirt, machine, createdAt }: DomainRecord,
  { state, description, error, pause, warnings, pid }: DomainNow,
  streamOf: StreamOf,
): Promise<Domain> {
  const disks = await Promise.all(description.disks.map((disk) => domainDiskView(name, disk, streamOf)));
  const problem = error && { code: error.code, message: error.message };
  return {
    ...{ name, state, disks, createdAt },
    ...(qmp !== undefined && { qmp }),
    ...(libvirt !== undefined && { libvirt }),
    ...(problem !== undefined && { error: problem }),
    ...(pause !== undefined && { pause }),
    ...(warnings !== undefined && warnings.length > 0 && { warnings: [...warnings] }),
    ...(machine !== undefined &&
      qmp !== undefined && { machine: machineView(machine, machinePaths(dirname(qmp)), pid) }),
  };
}

function machineView(
  machine: MachineRecord,
  paths: MachinePaths,
  pid: number | undefined,
): NonNullable<Domain["machine"]> {
  const { spec, autostart, startedAt, accelerator, end } = machine;
  return {
    ...{ autostart, memory: spec.memory, cpus: spec.cpus, console: paths.console },
    ...{ consoleLog: spec.serialLog ?? paths.consoleLog, log: paths.log },
    ...(pid !== undefined && { pid }),
    ...(startedAt !== undefined && { startedAt }),
    ...(accelerator !== undefined && { accelerator }),
    ...(end !== undefined && { end: { reason: end.reason, at: end.at } }),
  };
}

export async function domainDiskView(domain: string, disk: DiskDescription, streamOf: StreamOf): Promise<DomainDisk> {
  const { target, alias, device, format, source, backing } = disk;
  const name = `${domain}:${target}`;
  const stream = await streamOf(name);
  const below = backing[0]?.source;
  return {
    ...{ name, target, device },
    ...(alias !== undefined && { alias }),
    ...(format !== undefined && { format }),
    ...(source !== undefined && { image: sourceInWords(source) }),
    ...(below !== undefined && { backing: sourceInWords(below) }),
    ...(stream !== undefined && { stream }),
  };
}

export function domainMapView({ extents, next }: DomainMap): RouteResult<"diskMap"> {
  const runs = extents.map(({ offset: start, length, kind }) => {
    const isLocal = kind === "local";
    const depth = isLocal ? 0 : 1;
    return { start, length, depth, present: isLocal, zero: false, data: isLocal, missing: !isLocal };
  });
  return { runs, ...(next !== undefined && { next }) };
}

/** Path or URI. */
export function sourceInWords(source: DiskSource): string {
  if (source.kind === "other") return source.type;
  if (source.kind !== "network") return source.path;
  const { protocol, name, hosts } = source;
  const [host] = hosts;
  if (host?.socket !== undefined) return `${protocol}+unix:///${name}?socket=${host.socket}`;
  const port = host?.port === undefined ? "" : `:${host.port}`;
  return `${protocol}://${host?.name ?? ""}${port}/${name.replace(/^\//, "")}`;
}
