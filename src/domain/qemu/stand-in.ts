/**
 * A server in the place of a dead one. A QEMU whose NBD client has `reconnect-delay` keeps reads of a server that it has lost for as long
 * as that says, and nothing calls them back; its monitor would hang with whatever has to wait for them. So they are answered: the new
 * source is served at the old one's socket until the overlay lies over the new one.
 */
import type { BlockNode } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { type NbdServer, parseNbdUri, serveNbd } from "../../nbd/index.ts";
import type { QmpNode } from "../qmp/commands.ts";

/** QEMU tries again every 16 seconds at the latest. */
export const RECONNECT_MS = 20_000;

/**
 * @param below the old source's nodes, from the top down
 * @returns undefined where there can be none, or where somebody listens
 */
export async function standInFor(below: readonly QmpNode[], node: BlockNode): Promise<NbdServer | undefined> {
  const far = below.at(-1);
  const isPlain = below.every(({ driver }) => driver === "raw" || driver === "nbd");
  if (far?.driver !== "nbd" || !isPlain) return undefined;
  try {
    const address = parseNbdUri(far.file);
    if (!address.unix || address.tls) return undefined;
    const exported = { name: address.exportName, node, readOnly: true };
    return await serveNbd({ listen: { path: address.socket }, exports: [exported] });
  } catch (error) {
    if (error instanceof StreamdiskError) return undefined;
    throw error;
  }
}
