export type { MachineDisk, MachineExport, MachineImage, MachineSpec } from "../jobs/index.ts";
export type {
  BackingDescription,
  DiskDescription,
  DiskSource,
  DomainDescription,
  NetworkHost,
} from "./description.ts";
export { findDisk } from "./find-disk.ts";
export type { LibvirtAddress } from "./libvirt/address.ts";
export { LibvirtDomain, type LibvirtDomainOptions } from "./libvirt/libvirt-domain.ts";
export { describeMachine } from "./machine/describe-machine.ts";
export type { LayerBelow, PreparedDisk } from "./machine/disk-nodes.ts";
export { launchMachine } from "./machine/launch-machine.ts";
export { type MachineEnd, machineEndReason, readMachineEnd } from "./machine/machine-end.ts";
export { type MachinePaths, machinePaths } from "./machine/machine-paths.ts";
export {
  findMachine,
  isRunning,
  isWaitedFor,
  killMachine,
  type MachineProcess,
  machineEnds,
  wakeEnding,
} from "./machine/machine-process.ts";
export { aliasOf, defaultMachine } from "./machine/machine-spec.ts";
export { parseMachineXml } from "./machine/parse-machine.ts";
export { emulatorOnPath, type MachineHost, prepareMachine } from "./machine/prepare-machine.ts";
export { type PreparedMachine, qemuArguments } from "./machine/qemu-arguments.ts";
export { trimLog } from "./machine/trim-log.ts";
export { describeDomain } from "./qemu/describe-domain.ts";
export type { DomainStream, StreamMethod } from "./qemu/fill-stream.ts";
export { type GuestDrive, guestDrives } from "./qemu/guest-drives.ts";
export { hotPlugged } from "./qemu/hot-plug.ts";
export type { ReplaceSourceOptions, SourceReplaced } from "./qemu/replace-source.ts";
export { type DomainMap, RunningDomain, type RunningDomainOptions } from "./qemu/running-domain.ts";
export { QmpClient, type QmpClientOptions } from "./qmp/client.ts";
export { type QmpFailure, qmpFailure } from "./qmp/qmp-error.ts";
export type { QmpConnectOptions, QmpEvent, QmpLink, QmpListener, QmpTransport } from "./qmp/transport.ts";
export { formatDomainXml } from "./xml/format-domain.ts";
export { parseDomainXml } from "./xml/parse-domain.ts";
