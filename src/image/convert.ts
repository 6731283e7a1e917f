import { systemClock } from "../block/index.ts";
import { createFormat, type FormatName, openFormat } from "../formats/index.ts";
import type { FileNode, SourceOptions } from "../sources/index.ts";
import { Pump } from "../stream/index.ts";
import { CopyTarget } from "./copy-target.ts";
import { makeFile } from "./new-file.ts";
import { finallyClose, type Image, openImage } from "./open.ts";

export interface ConvertImageOptions {
  /** Of the destination. */
  readonly format: FormatName;
  /** Of the source. Absent: the first bytes of the file decide. */
  readonly sourceFormat?: FormatName;
  readonly allowBacking?: readonly string[] | "any";
  readonly sourceOptions?: SourceOptions;
  /** Of the destination, as after `qemu-img convert -o`. */
  readonly options?: Readonly<Record<string, string>>;
  /** Leaves data that is zero throughout out of the destination. @default true */
  readonly detectZeroes?: boolean;
  /** Overwrites a destination that is there and not empty, once the new one is complete. @default false */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
  /** Called some times a second. */
  readonly onProgress?: (progress: ConvertProgress) => void;
}

export interface ConvertProgress {
  /** Everything below it is done. */
  readonly offset: number;
  readonly length: number;
  /** Data bytes copied. */
  readonly copiedBytes: number;
  /** Data bytes that there are. */
  readonly dataBytes: number;
}

export interface ConvertResult {
  readonly size: number;
  readonly copiedBytes: number;
  readonly warnings: readonly string[];
}

const CHUNK = 2 ** 20;
const WINDOW = 4 * 2 ** 20;
const PROGRESS_MS = 200;

/**
 * Copies what a reader of `source` sees into a new image of its own. When it fails or is aborted nothing of the
 * destination is left, and what was there before is there still.
 *
 * @throws {StreamdiskError} `exists`, `not-found`, `no-space`, and what opening the source throws; when aborted, the signal's reason
 */
export async function convertImage(
  source: string,
  destination: string,
  options: ConvertImageOptions,
): Promise<ConvertResult> {
  const { format, sourceFormat, allowBacking, sourceOptions } = options;
  const reading = { format: sourceFormat, readOnly: true, allowBacking, sourceOptions };
  await using image = await openImage(source, reading);
  const size = image.node.length;
  return await makeFile(destination, options.force ?? false, async (file) => {
    const made = await createFormat(format, file, { size, options: options.options });
    const copiedBytes = await fill(image, file, format, options);
    return { size: made.size, copiedBytes, warnings: [...image.warnings, ...made.warnings] };
  });
}

async function fill(
  image: Image,
  file: FileNode,
  format: FormatName,
  { detectZeroes = true, signal, onProgress }: ConvertImageOptions,
): Promise<number> {
  const node = await openFormat(format, file, { readOnly: false });
  return finallyClose(node, async () => {
    const target = new CopyTarget(image.node, node, detectZeroes);
    const chunk = Math.ceil(CHUNK / target.grain) * target.grain;
    const stop = signal ?? new AbortController().signal;
    const pump = new Pump(target, { chunk, window: WINDOW, speed: undefined, clock: systemClock, signal: stop });
    await pump.survey();
    const dataBytes = pump.tally.fetch;
    const report = (): void => {
      onProgress?.({ offset: pump.offset, length: target.length, copiedBytes: pump.copied, dataBytes });
    };
    const timer = setInterval(report, PROGRESS_MS);
    try {
      const failure = await pump.pass();
      signal?.throwIfAborted();
      if (failure !== undefined) throw failure.error;
      await pump.durability.settle();
    } finally {
      clearInterval(timer);
    }
    report();
    return pump.copied;
  });
}
