/** What is remembered and how it is now, as the API shows it. */
import type { Cells as CellsView, Disk, Job, Live, NbdExportView } from "../api/index.ts";
import type { DiskInfo, DiskLive } from "../engine/index.ts";
import type { StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import type { Cells } from "../image/index.ts";
import type { DiskRecord, DiskSettings, ExportRecord, JobRecord } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";
import { type JobPulse, nameOf } from "./active-job.ts";

export function jobView(record: JobRecord, pulse?: JobPulse): Job {
  const { disk, reason, base, group: _group, ...rest } = record;
  const { rate = 0, eta, retryIn, share } = pulse ?? {};
  return {
    ...rest,
    disk: nameOf(disk),
    ...(base !== undefined && { base: shownReference(base.reference) }),
    ...(reason !== undefined && { reason: { ...reason, ...(retryIn !== undefined && { retryInMs: retryIn }) } }),
    rate,
    ...(eta !== undefined && Number.isFinite(eta) && { etaSeconds: eta }),
    ...(share !== undefined && { share }),
  };
}

/** How a disk is, beside its record. */
export interface DiskNow {
  readonly info: DiskInfo | undefined;
  readonly error: StreamdiskError | undefined;
  readonly stream: Job | undefined;
}

export function diskView({ id, name, state, settings, address, createdAt }: DiskRecord, now: DiskNow): Disk {
  const { info, error, stream } = now;
  return {
    id,
    name,
    state: state === "ready" && error !== undefined ? "failed" : state,
    ...(error !== undefined && { error: { code: error.code, message: error.message } }),
    ...settingsView(settings, info),
    address,
    ...(info !== undefined && figures(info)),
    ...(stream !== undefined && { stream }),
    warnings: [...(info?.warnings ?? [])],
    createdAt,
  };
}

/** What lies below a disk, from the top down, as messages show it: what its image says now, or what it was made over. */
export function below({ backing }: DiskSettings, info: DiskInfo | undefined): readonly string[] {
  return info?.below ?? (backing === undefined ? [] : [shownReference(backing)]);
}

function settingsView(settings: DiskSettings, info: DiskInfo | undefined) {
  const { image, readOnly, copyOnRead, onSourceError } = settings;
  const format = info?.format ?? settings.format;
  const [backing] = below(settings, info);
  return {
    image,
    ...(format !== undefined && { format }),
    ...(backing !== undefined && { backing }),
    readOnly,
    copyOnRead,
    onSourceError: policyView(onSourceError),
  };
}

export function policyView({ holdMs, afterwards }: SourcePolicy): Disk["onSourceError"] {
  return { holdMs: Number.isFinite(holdMs) ? holdMs : null, afterwards };
}

function figures({
  uri,
  length,
  localBytes,
  zeroBytes,
  missingBytes,
  hydrated,
  clients,
  source,
  fetchedBytes,
  streamedBytes,
  traffic,
  load,
}: DiskInfo) {
  return {
    uri,
    length,
    localBytes,
    zeroBytes,
    missingBytes,
    hydrated,
    clients,
    source: { ...source },
    fetchedBytes,
    streamedBytes,
    traffic,
    ...(load !== undefined && { load }),
  };
}

export function cellsView({ local, missing, ...rest }: Cells): CellsView {
  return { ...rest, local: inBase64(local), missing: inBase64(missing) };
}

function inBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64");
}

export function liveView(live: DiskLive, stream: Job | undefined): Live {
  return { ...live, source: { ...live.source }, ...(stream !== undefined && { stream }) };
}

export function exportView(
  { name, settings, address, cache, createdAt }: ExportRecord,
  { info, error }: Pick<DiskNow, "info" | "error">,
): NbdExportView {
  const format = info?.format ?? settings.format;
  return {
    name,
    image: shownReference(settings.image),
    ...(format !== undefined && { format }),
    readOnly: settings.readOnly,
    address,
    ...(cache !== undefined && { cache }),
    onSourceError: policyView(settings.onSourceError),
    ...(info !== undefined && { uri: info.uri, source: { ...info.source } }),
    ...(error !== undefined && { error: { code: error.code, message: error.message } }),
    clients: info?.clients ?? 0,
    createdAt,
  };
}
