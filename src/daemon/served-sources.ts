/**
 * What the daemon serves, as it lies below the disks of machines: QEMU's node has the address of a disk or an export, and by that it is found.
 */
import { lookup } from "node:dns/promises";
import { BlockList } from "node:net";
import { networkInterfaces } from "node:os";
import { isAbsolute } from "node:path";
import { within } from "../block/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import type { ExportAddress } from "../jobs/index.ts";
import { parseNbdUri } from "../nbd/index.ts";
import { shownReference } from "../sources/index.ts";
import { resolvedPath } from "./allowed-paths.ts";
import type { HostedImage } from "./disk-host.ts";
import type { HeldDisk } from "./disks.ts";
import type { HeldExport } from "./exports.ts";

const LOOKUP_MS = 1_000;

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

/** Those that lie at one of these places. @param places paths and URIs */
export async function servedAt(places: readonly string[], all: readonly ServedSource[]): Promise<ServedSource[]> {
  const served: ServedSource[] = [];
  for (const source of all) {
    for (const place of places) if (await isServedBy(place, source)) served.push(source);
  }
  return served;
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
  if (named.unix) {
    // Nobody knows where its QEMU was started from; what the daemon hands out is absolute.
    if (address.kind !== "unix" || !isAbsolute(named.socket)) return false;
    return (await resolvedPath(named.socket)) === (await resolvedPath(address.path));
  }
  if (address.kind !== "tcp" || named.port !== address.port) return false;
  // As the daemon itself calls it, also when that is "0.0.0.0".
  return named.host === address.host || (await isThisHost(named.host));
}

/** Whether that is one of the names of this host. Of a name that can't be looked up now it is presumed. */
async function isThisHost(host: string): Promise<boolean> {
  const found = await within(
    lookup(host, { all: true }).catch(() => undefined),
    LOOKUP_MS,
  );
  // A foreign one that is taken for ours costs a few tries too many; ours that is not known has QEMU wait for what it holds.
  if (found === undefined) return true;
  const own = ownAddresses();
  return found.some(({ address, family }) => own.check(address, family === 6 ? "ipv6" : "ipv4"));
}

function ownAddresses(): BlockList {
  const own = new BlockList();
  own.addSubnet("127.0.0.0", 8, "ipv4");
  own.addAddress("::1", "ipv6");
  for (const { address, family } of Object.values(networkInterfaces()).flatMap((all) => all ?? [])) {
    own.addAddress(address, family === "IPv6" ? "ipv6" : "ipv4");
  }
  return own;
}
