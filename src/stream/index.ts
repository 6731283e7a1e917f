export { wholeGrains } from "./grain.ts";
export { StreamJob, type StreamOptions } from "./job.ts";
export { type OverlayTargetOptions, overlayTarget, type StreamBase } from "./overlay-target.ts";
export type { StreamProgress, StreamReason, StreamState } from "./progress.ts";
export { Pump, type PumpOptions } from "./pump.ts";
export { type StepOptions, type StepResult, stepStream } from "./step.ts";
export { type Tally, takeTally } from "./tally.ts";
export type { Populated, StreamExtent, StreamExtentKind, StreamTarget } from "./target.ts";
