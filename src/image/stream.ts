import { isOverlay, type OverlayNode } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import {
  overlayTarget,
  type StepResult,
  StreamJob,
  type StreamProgress,
  type StreamTarget,
  stepStream,
} from "../stream/index.ts";
import { findBase } from "./base.ts";
import { type Image, openImage, withImage } from "./open.ts";
import type { ImageOptions } from "./options.ts";

export interface StreamImageOptions extends ImageOptions {
  /** A file of the chain that stays the backing file: only what lies above it is fetched. */
  readonly base?: string;
  /** Bytes a second. Absent: as fast as it goes. */
  readonly speed?: number;
  /** Bytes under way at once. Absent: it adapts between 1 and 32 MiB. */
  readonly window?: number;
  /** Bytes of one request. @default 1 MiB */
  readonly chunk?: number;
  /** Makes copied data that is zero throughout zero clusters, which take no space. @default true */
  readonly detectZeroes?: boolean;
  /** Milliseconds that a lost source or a full disk is waited for; Infinity: for ever. @default 0 */
  readonly retryFor?: number;
  readonly signal?: AbortSignal;
}

/**
 * Fetches all that is missing in an image and breaks its link to the backing file (or links it to `base`). The last
 * progress has the state `completed`, `cancelled` or `failed`; after `failed` the iterator throws the StreamdiskError, after
 * `cancelled` the reason of the signal. Leaving the loop cancels the stream. Whatever happens the image stays valid,
 * what was fetched stays in it, and the next stream goes on from there.
 *
 * @param image a path, which is opened for this and closed again, or an image that is open for writing
 * @example
 * for await (const { missingBytes, rate } of streamImage("vm1.qcow2", { speed: 50 * 2 ** 20 })) console.log(missingBytes, rate);
 */
export async function* streamImage(
  image: string | Image,
  options: StreamImageOptions = {},
): AsyncGenerator<StreamProgress, void, undefined> {
  const opened = typeof image === "string" ? await openImage(image, openOptions(options)) : image;
  let failed = false;
  try {
    const { speed, window, chunk, retryFor, signal } = options;
    const target = await targetOf(opened, options);
    const file = opened.layers[0]?.file;
    const freeSpace = async (): Promise<number | undefined> => file?.freeSpace();
    const job = new StreamJob(target, { speed, window, chunk, retryFor, signal, freeSpace });
    for await (const progress of job) {
      yield { ...progress, warnings: [...opened.warnings, ...progress.warnings] };
    }
  } catch (error) {
    failed = true;
    throw error;
  } finally {
    // What went wrong first counts.
    if (opened !== image)
      await opened.close().catch((error) => {
        if (!failed) throw error;
      });
  }
}

export interface StepImageOptions extends ImageOptions {
  readonly base?: string;
  /** Where to look for the first missing range. Absent: anywhere. */
  readonly offset?: number;
  /** Bytes to copy at most, rounded up to the image's grain. @default 1 MiB */
  readonly length?: number;
  readonly detectZeroes?: boolean;
  readonly signal?: AbortSignal;
}

const STEP = 2 ** 20;

/**
 * One increment of a stream; the step after which nothing is missing anywhere breaks the link.
 *
 * @example
 * let step = await stepImage("vm1.qcow2");
 * while (!step.done) step = await stepImage("vm1.qcow2", { offset: step.next });
 */
export async function stepImage(image: string | Image, options: StepImageOptions = {}): Promise<StepResult> {
  const { offset, length = STEP, signal } = options;
  return withImage(image, openOptions(options), async (opened) =>
    stepStream(await targetOf(opened, options), { offset, length, signal }),
  );
}

/** Who names a base allows the image to name it. */
function openOptions({ format, allowBacking = [], sourceOptions, base }: StreamImageOptions): ImageOptions {
  return {
    format,
    sourceOptions,
    allowBacking: allowBacking === "any" || base === undefined ? allowBacking : [...allowBacking, base],
  };
}

async function targetOf(
  image: Image,
  { base, detectZeroes }: { readonly base?: string; readonly detectZeroes?: boolean },
): Promise<StreamTarget> {
  const overlay = overlayOf(image);
  refuseSnapshots(image, overlay);
  return overlayTarget(overlay, { base: base === undefined ? undefined : await findBase(image, base), detectZeroes });
}

function overlayOf({ node }: Image): OverlayNode {
  if (isOverlay(node)) return node;
  const message = `'${node.name}' is a ${node.format} image, which has no backing file to stream from`;
  throw new StreamdiskError("invalid-argument", message, { node: node.name });
}

/** Before anything is fetched, and not only when the link is to be dropped. */
function refuseSnapshots({ node }: Image, overlay: OverlayNode): void {
  const { snapshots = [] } = node.describe();
  if (overlay.backingReference === undefined || snapshots.length === 0) return;
  const names = snapshots.map(({ name }) => `'${name}'`).join(", ");
  const message =
    `'${node.name}' has internal snapshots (${names}), which read through its backing file: the link to it cannot be ` +
    "broken. Delete them first (qemu-img snapshot -d), or convert the image";
  throw new StreamdiskError("refused", message, { node: node.name });
}
