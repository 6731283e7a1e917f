export type { Deployment } from "./deployment-schemas.ts";
export type { Domain, DomainDisk } from "./domain-schemas.ts";
export { failedFields } from "./failed-fields.ts";
export { diskName, domainName } from "./names.ts";
export { type Json, openApiDocument } from "./openapi.ts";
export type { RouteParts } from "./route.ts";
export {
  type CheckedInput,
  GOES_ON,
  ROUTES,
  type RouteInput,
  type RouteName,
  type RouteResult,
  type Service,
} from "./routes.ts";
export {
  type Cells,
  type DaemonInfo,
  type Disk,
  type Event,
  type Job,
  type Limit,
  type Live,
  type LoadSample,
  type MapRun,
  type NbdClient,
  type NbdExportView,
  type NewDisk,
  type NewExport,
  type Problem,
  problem,
  type Source,
} from "./schemas.ts";
export { type SettingsFile, settingsFile } from "./settings.ts";
