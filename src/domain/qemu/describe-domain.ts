/**
 * A domain that nobody has described, as its QEMU has it. Targets are given here, in QEMU's order of the devices: `vda`, `vdb`... for
 * virtio, `sda`... for all others; so they may differ from what the guest says. Disks that were attached while it ran have theirs.
 */
import { parseNbdUri } from "../../nbd/index.ts";
import type { DiskDescription, DiskSource, DomainDescription } from "../description.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QmpBlockDevice } from "../qmp/commands.ts";
import { hotPlugged } from "./hot-plug.ts";
import { type BlockLayer, chainOf, deviceId, fileOf, queryBlockLayer } from "./locate-overlay.ts";

/** Buses by the beginning of the types of their devices. */
const BUSES: readonly (readonly [type: string, bus: string])[] = [
  ["virtio", "virtio"],
  ["scsi", "scsi"],
  ["ide", "sata"],
  ["usb", "usb"],
];
const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** @param name what it is called when QEMU was given no name */
export async function describeDomain(qmp: QmpClient, name: string, signal?: AbortSignal): Promise<DomainDescription> {
  const layer = await queryBlockLayer(qmp, signal);
  const disks: DiskDescription[] = [];
  const taken = layer.devices.flatMap((device) => hotPlugged(deviceId(device)) ?? []);
  for (const device of layer.devices) {
    if (device.qdev === undefined) continue;
    const type = await deviceType(qmp, device.qdev, signal);
    const bus = BUSES.find(([begin]) => type.startsWith(begin))?.[1];
    const prefix = bus === "virtio" ? "vd" : "sd";
    const target = hotPlugged(deviceId(device)) ?? freeTarget(taken, prefix);
    taken.push(target);
    disks.push(describeDisk(layer, device, { target, type, bus }));
  }
  return { name: (await qmp.execute("query-name", {}, { signal })) ?? name, disks };
}

/** The first that is free. */
export function freeTarget(taken: readonly string[], prefix = "vd"): string {
  for (let number = 0; ; number++) {
    const target = prefix + lettersOf(number);
    if (!taken.includes(target)) return target;
  }
}

/** The type of the guest's device. One whose drive hangs on a part of it is named by the device. */
async function deviceType(qmp: QmpClient, qdev: string, signal: AbortSignal | undefined): Promise<string> {
  const path = qdev.startsWith("/") ? qdev.replace(/\/virtio-backend$/, "") : `/machine/peripheral/${qdev}`;
  return qmp.execute("qom-get", { path, property: "type" }, { signal });
}

function describeDisk(
  layer: BlockLayer,
  device: QmpBlockDevice,
  { target, type, bus }: { readonly target: string; readonly type: string; readonly bus: string | undefined },
): DiskDescription {
  const alias = deviceId(device);
  const chain = device.inserted === undefined ? [] : chainOf(layer, device.inserted, target);
  const [top, ...below] = chain;
  return {
    target,
    ...(bus !== undefined && { bus }),
    ...(alias !== undefined && { alias }),
    device: /-cd$/.test(type) ? "cdrom" : "disk",
    readOnly: top?.readOnly ?? false,
    ...(top !== undefined && { format: formatOf(top.driver), source: sourceOf(fileOf(layer, top), top.driver) }),
    backing: below.map((node) => ({
      format: formatOf(node.driver),
      source: sourceOf(fileOf(layer, node), node.driver),
    })),
  };
}

/** What has no format of its own is raw. */
function formatOf(driver: string): string {
  return ["nbd", "file", "host_device", "http", "https"].includes(driver) ? "raw" : driver;
}

function sourceOf(file: string, driver: string): DiskSource {
  if (file.startsWith("/")) return { kind: driver === "host_device" ? "block" : "file", path: file };
  try {
    const uri = parseNbdUri(file);
    const host = uri.unix ? { socket: uri.socket } : { name: uri.host, port: uri.port };
    return { kind: "network", protocol: "nbd", name: uri.exportName, hosts: [host] };
  } catch {
    // A path that was relative to where QEMU was started, as QEMU was given it.
    return file === "" || file.includes(":") ? { kind: "other", type: driver } : { kind: "file", path: file };
  }
}

/** 0 is "a", 25 "z", 26 "aa". */
function lettersOf(number: number): string {
  const last = LETTERS[number % LETTERS.length]!;
  return number < LETTERS.length ? last : lettersOf(Math.floor(number / LETTERS.length) - 1) + last;
}
