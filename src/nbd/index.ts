export type { UnixListen } from "../host/index.ts";
export { type ConnectNbdOptions, connectNbd, listNbdExports, nbdExportInfo } from "./client/connect.ts";
export type { DialOptions } from "./client/dial.ts";
export type { NbdExportInfo } from "./client/export-info.ts";
export type { LinkListener } from "./client/link.ts";
export type { AllocationRun, NbdNode } from "./client/node.ts";
export type { NbdListEntry } from "./client/options.ts";
export {
  type GuestDisk,
  libvirtDisk,
  type QemuNode,
  qemuBlockdev,
  qemuDevice,
  qemuDisk,
  qemuNode,
} from "./hypervisor.ts";
export { CONTEXT_DEPTH } from "./protocol.ts";
export type { NbdClient } from "./server/connection.ts";
export type { NbdExport, RequestNode } from "./server/exports.ts";
export { type CloseOptions, type NbdServer, type ServeNbdOptions, serveNbd, type TcpListen } from "./server/server.ts";
export type { NbdServerTls } from "./server/server-tls.ts";
export { type LatencySummary, percentileUs, type Traffic, type TrafficFigures } from "./server/traffic.ts";
export { formatNbdUri, isNbdUri, type NbdAddress, type NbdUri, parseNbdUri } from "./uri.ts";
