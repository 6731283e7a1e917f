export type { RunDaemonOptions, RunningDaemon } from "./run-daemon.ts";
export { type DaemonSettings, readSettings, type SettingsFlags, type SettingsSources } from "./settings.ts";
export { startDaemon } from "./start-daemon.ts";
export { type SystemdUnitOptions, systemdUnit, UNIT_NAME } from "./systemd-unit.ts";
export { readToken } from "./token-file.ts";
