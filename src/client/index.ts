export type {
  DaemonInfo,
  Disk,
  Event,
  Job,
  Live,
  LoadSample,
  MapRun,
  NbdClient,
  RouteInput,
  RouteName,
  RouteResult,
} from "../api/index.ts";
export { type CallOptions, DaemonClient } from "./daemon-client.ts";
export type { DiskCells, DiskHandle } from "./disk-handle.ts";
export type { FollowOptions, LineOptions } from "./event-follower.ts";
export {
  type FetchTransportOptions,
  fetchTransport,
  type Transport,
  type TransportRequest,
  type TransportResponse,
} from "./transport.ts";
