/**
 * What the daemon serves, as it lies below the disks of machines: QEMU's node has the address of a disk or an export, and by that it is found.
 */

import type { SourcePolicy } from "../filters/index.ts";
import type { ExportAddress } from "../jobs/index.ts";
import { parseNbdUri } from "../nbd/index.ts";
import { shownReference } from "../sources/index.ts";
import { resolvedPath } from "./allowed-paths.ts";
import type { HostedImage } from "./disk-host.ts";
import type { HeldDisk } from "./disks.ts";
import type { HeldExport } from "./exports.ts";

/** A disk or an export of the daemon. */
export interface ServedSource {
  /** "disk vm1", "export debian". */
  readonly name: string;
  readonly host: HostedImage;
  readonly address: ExportAddress;
  readonly exportName: string;
  /** Where its bytes come from in turn, as messages show it. */
  readonly from: string;
  readonly policy: () => SourcePolicy;
}

export function servedSources(disks: readonly HeldDisk[], exports: readonly HeldExport[]): ServedSource[] {
  return [...disks.map(servedDisk), ...exports.map(servedExport)];
}

function servedDisk(held: HeldDisk): ServedSource {
  const { name, settings, address } = held.record;
  const from = shownReference(settings.backing ?? settings.image);
  const policy = () => held.record.settings.onSourceError;
  return { name: `disk ${name}`, host: held.host, address, exportName: "", from, policy };
}

function servedExport(held: HeldExport): ServedSource {
  const { name, settings, address } = held.record;
  const policy = () => held.record.settings.onSourceError;
  return {
    name: `export ${name}`,
    host: held.host,
    address,
    exportName: name,
    from: shownReference(settings.image),
    policy,
  };
}

/** Whether a node of QEMU's, by its path or URI, is a client of it. */
export async function isServedBy(uri: string, { address, exportName }: ServedSource): Promise<boolean> {
  let named: ReturnType<typeof parseNbdUri>;
  try {
    named = parseNbdUri(uri);
  } catch {
    return false;
  }
  if (named.exportName !== exportName) return false;
  if (named.unix)
    return address.kind === "unix" && (await resolvedPath(named.socket)) === (await resolvedPath(address.path));
  // By whichever of its names the machine is called.
  return address.kind === "tcp" && named.port === address.port;
}
