export { blockDeviceSize } from "./block-device.ts";
export { type HostFact, probeHost } from "./doctor.ts";
export { type FileIdentity, type FileSystemFacts, fileSystemFacts } from "./file-system.ts";
export { type FileRun, type FileRunsOptions, fileRuns } from "./holes.ts";
export { type HeldLock, heldLocks, type LockHolder, lockHolders, lockTableKey } from "./lock-holders.ts";
export { FileMappingLog, openMappingLog } from "./mapping-log.ts";
export { nativeCalls, nativeProblem } from "./native.ts";
export { isByteLocked, lockByte, unlockBytes } from "./ofd-locks.ts";
export { punchHole, zeroRange } from "./punch.ts";
