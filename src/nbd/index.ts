export { type ConnectNbdOptions, connectNbd, listNbdExports, nbdExportInfo } from "./client/connect.ts";
export type { DialOptions } from "./client/dial.ts";
export type { NbdExportInfo } from "./client/export-info.ts";
export type { LinkListener } from "./client/link.ts";
export type { AllocationRun, NbdNode } from "./client/node.ts";
export type { NbdListEntry } from "./client/options.ts";
export type { NbdExport } from "./server/exports.ts";
export { type CloseOptions, type NbdServer, type ServeNbdOptions, serveNbd } from "./server/server.ts";
export { formatNbdUri, isNbdUri, type NbdAddress, type NbdUri, parseNbdUri } from "./uri.ts";
