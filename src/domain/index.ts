export type {
  BackingDescription,
  DiskDescription,
  DiskSource,
  DomainDescription,
  NetworkHost,
} from "./description.ts";
export { findDisk } from "./find-disk.ts";
export { describeDomain } from "./qemu/describe-domain.ts";
export {
  type DomainStream,
  RunningDomain,
  type RunningDomainOptions,
  type StreamMethod,
} from "./qemu/running-domain.ts";
export { QmpClient, type QmpClientOptions } from "./qmp/client.ts";
export { type QmpFailure, qmpFailure } from "./qmp/qmp-error.ts";
export { formatDomainXml } from "./xml/format-domain.ts";
export { parseDomainXml } from "./xml/parse-domain.ts";
