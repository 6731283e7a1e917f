export { blockDeviceSize } from "./block-device.ts";
export { type FileIdentity, type FileSystemFacts, fileSystemFacts } from "./file-system.ts";
export { type FileRun, type FileRunsOptions, fileRuns } from "./holes.ts";
export { type HeldLock, heldLocks, type LockHolder, lockHolders, lockTableKey } from "./lock-holders.ts";
export { nativeCalls, nativeProblem } from "./native.ts";
export { isByteLocked, lockByte, unlockBytes } from "./ofd-locks.ts";
export { punchHole, reserveSpace, zeroRange } from "./punch.ts";
