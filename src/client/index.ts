export type {
  DaemonInfo,
  Disk,
  Event,
  Job,
  LoadSample,
  MapRun,
  NbdClient,
  RouteInput,
  RouteName,
  RouteResult,
} from "../api/index.ts";
export { type CallOptions, DaemonClient } from "./daemon-client.ts";
export type { DiskHandle } from "./disk-handle.ts";
export type { FollowOptions } from "./event-follower.ts";
export {
  type FetchTransportOptions,
  fetchTransport,
  type Transport,
  type TransportRequest,
  type TransportResponse,
} from "./transport.ts";
