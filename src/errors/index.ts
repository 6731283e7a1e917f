export { type ErrorContext, StreamdiskError, wrapSystemError } from "./errors.ts";
export { ERROR_TABLE, type ErrorCode, type ErrorRow } from "./table.ts";
