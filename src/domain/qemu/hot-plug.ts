/**
 * Engine disks put into a running QEMU, and taken out again. What is known of them is what QEMU knows: device and node are called after
 * the target, `hot-vdb`.
 *
 * A device goes when the guest lets go of it, which may take its time or not happen at all; the node can only be closed after it. A
 * detach that ends in between is done by the next one.
 */
import { StreamdiskError } from "../../errors/index.ts";
import { type GuestDisk, qemuDevice, qemuNode } from "../../nbd/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import { qmpFailure } from "../qmp/qmp-error.ts";
import { deviceId, queryBlockLayer } from "./locate-overlay.ts";

const PREFIX = "hot-";
/** How long a guest may take to let go of a device. */
const LET_GO_MS = 30_000;
const POLL_MS = 500;

/** The target that a device was put in as; undefined for all others. */
export function hotPlugged(alias: string | undefined): string | undefined {
  return alias?.startsWith(PREFIX) ? alias.slice(PREFIX.length) : undefined;
}

/** @throws {StreamdiskError} `unsupported` for a machine that takes no disk while it runs; as QEMU says */
export async function plugIn(qmp: QmpClient, domain: string, target: string, disk: GuestDisk): Promise<void> {
  const name = PREFIX + target;
  await qmp.execute("blockdev-add", qemuNode(disk, name));
  try {
    await addDevice(qmp, domain, qemuDevice(name, name));
  } catch (error) {
    await qmp.execute("blockdev-del", { "node-name": name }).catch(() => {});
    throw error;
  }
}

/**
 * Resolves when nothing of it is left.
 *
 * @throws {StreamdiskError} `not-found`; `in-use` when the guest has not let go of it in time
 */
export async function plugOut(qmp: QmpClient, domain: string, target: string): Promise<void> {
  const name = PREFIX + target;
  const { devices, nodes } = await queryBlockLayer(qmp);
  const isThere = devices.some((device) => deviceId(device) === name);
  if (!isThere && !nodes.some(({ nodeName }) => nodeName === name)) {
    const message = `'${domain}:${target}' was not attached while the machine ran: only what 'domain attach' put in can be taken out`;
    throw new StreamdiskError("not-found", message, { node: domain });
  }
  if (isThere) await removeDevice(qmp, domain, target);
  await qmp.execute("blockdev-del", { "node-name": name });
}

/** Where a machine has no room of its own, on a free port for that. */
async function addDevice(qmp: QmpClient, domain: string, device: ReturnType<typeof qemuDevice>): Promise<void> {
  let refused = await refusal(qmp, device);
  if (refused === undefined) return;
  const ports = (await qmp.execute("query-pci", {})).filter(({ isEmptyBridge, id }) => isEmptyBridge && id !== "");
  for (const { id } of ports) {
    refused = await refusal(qmp, { ...device, bus: id });
    if (refused === undefined) return;
  }
  const message =
    `The machine '${domain}' takes no disk while it runs: ${refused}. One of the type q35 needs a free port for each, from its start on ` +
    "(-device pcie-root-port,id=port1,chassis=1)";
  throw new StreamdiskError("unsupported", message, { node: domain });
}

/** @returns why there is no room for it, if that is so */
async function refusal(qmp: QmpClient, device: Readonly<Record<string, string>>): Promise<string | undefined> {
  try {
    await qmp.execute("device_add", device);
    return undefined;
  } catch (error) {
    const said = qmpFailure(error)?.desc ?? "";
    if (/hotplug|No 'PCI' bus|no slot|not available for/i.test(said)) return said;
    throw error;
  }
}

async function removeDevice(qmp: QmpClient, domain: string, target: string): Promise<void> {
  const id = PREFIX + target;
  const until = performance.now() + LET_GO_MS;
  await qmp.execute("device_del", { id }).catch((error) => {
    // It was asked for before, and may have gone since.
    if (qmpFailure(error) === undefined) throw error;
  });
  while ((await qmp.execute("query-block", {})).some((device) => deviceId(device) === id)) {
    if (performance.now() > until) {
      const message = `The guest of '${domain}' has not let go of '${target}' within ${LET_GO_MS / 1000} s. It may yet: detach it again then`;
      throw new StreamdiskError("in-use", message, { node: domain });
    }
    await qmp.change(POLL_MS);
  }
}
