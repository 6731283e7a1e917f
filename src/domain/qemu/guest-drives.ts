/**
 * The drives of a guest as they bear on the death of a source: what each reads from in the end, whether its device stops the machine on a
 * read that fails, and whether it has.
 */
import type { DomainDescription } from "../description.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpBlockDevice } from "../qmp/commands.ts";
import { qmpFailure } from "../qmp/qmp-error.ts";
import { childrenOf, deviceId, nodesBelow, queryBlockLayer } from "./locate-overlay.ts";

export interface GuestDrive {
  /** As the domain's description calls it; of one that it does not have, QEMU's name. */
  readonly name: string;
  /** Nodes of QEMU's at the bottom of its chain: where its bytes come from, as paths and URIs. */
  readonly sources: readonly string[];
  /** Names of all nodes of its chain. */
  readonly nodes: readonly string[];
  /** The path of the image at its top, as QEMU has it. */
  readonly image: string | undefined;
  /** Since the machine went on the last time: whether a request has failed and stopped it, and whether for want of room. */
  readonly status: "ok" | "failed" | "nospace";
  /**
   * Whether the machine is stopped when a read fails (`rerror=stop`). QEMU does not tell for a device that was given a drive
   * (`-drive`) and no `rerror` of its own: the drive's counts there.
   */
  readonly stopsOnErrors: "yes" | "no" | "unknown";
}

/** @throws {StreamdiskError} as commands to QEMU do */
export async function guestDrives(
  qmp: QmpClient,
  { disks }: DomainDescription,
  signal?: AbortSignal,
): Promise<GuestDrive[]> {
  const layer = await queryBlockLayer(qmp, signal);
  const drives: GuestDrive[] = [];
  for (const device of layer.devices) {
    const { qdev, inserted, ioStatus } = device;
    if (qdev === undefined || inserted === undefined) continue;
    const nodes = nodesBelow(layer, inserted);
    const bottom = nodes.filter((node) => childrenOf(layer, node).length === 0);
    const id = deviceId(device);
    const known = disks.find(
      ({ alias, source }) =>
        (id !== undefined && alias === id) ||
        (source !== undefined && "path" in source && source.path === inserted.file),
    );
    drives.push({
      name: known?.target ?? id ?? qdev,
      // QEMU leaves out the slash before an export without a name.
      sources: bottom.map(({ file }) => file.replace(/^(nbds?\+unix:\/\/)\?/, "$1/?")),
      nodes: nodes.map(({ nodeName }) => nodeName),
      image: inserted.file,
      status: ioStatus === "failed" || ioStatus === "nospace" ? ioStatus : "ok",
      stopsOnErrors: await stopsOnErrors(qmp, device, qdev, signal),
    });
  }
  return drives;
}

async function stopsOnErrors(
  qmp: QmpClient,
  { device }: QmpBlockDevice,
  qdev: string,
  signal: AbortSignal | undefined,
): Promise<GuestDrive["stopsOnErrors"]> {
  const path = qdev.startsWith("/") ? qdev : `/machine/peripheral/${qdev}`;
  const rerror = await qmp.execute("qom-get", { path, property: "rerror" }, { signal }).catch((error) => {
    // A device without the property hands its errors to the guest.
    if (qmpFailure(error) !== undefined) return "report";
    throw error;
  });
  if (rerror === "stop") return "yes";
  // A drive of the old kind may say it in the device's stead.
  return rerror === "auto" && device !== "" ? "unknown" : "no";
}
