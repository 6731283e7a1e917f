export {
  type CheckedInput,
  ROUTES,
  type RouteInput,
  type RouteName,
  type RouteResult,
  type Service,
} from "./routes.ts";
export {
  type DaemonInfo,
  type Disk,
  type Event,
  type Job,
  type MapRun,
  type NbdExportView,
  type NewDisk,
  type NewExport,
  type Problem,
  problem,
  type Source,
} from "./schemas.ts";
