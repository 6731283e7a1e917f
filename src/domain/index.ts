export { QmpClient, type QmpClientOptions } from "./qmp/client.ts";
export { type QmpFailure, qmpFailure } from "./qmp/qmp-error.ts";
