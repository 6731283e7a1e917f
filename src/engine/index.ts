export type {
  BaseLayer,
  DiskInfo,
  DiskLive,
  LoadSample,
  MapPage,
  MapPart,
  SourceFigures,
  SourceState,
  StreamSpec,
} from "./disk-spec.ts";
export { DEFAULT_POLICY, type ServeDiskOptions, serveDisk } from "./serve-disk.ts";
export type { ServedDisk } from "./served-disk.ts";
