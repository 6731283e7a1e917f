import type { BlockNode } from "../block/index.ts";
import type { CreatedFormat } from "./create-options.ts";
import type { CreateFormatOptions, FormatName, FormatNode, OpenFormatOptions } from "./format.ts";
import { createQcow2 } from "./qcow2/create.ts";
import { openQcow2 } from "./qcow2/node.ts";
import { createQed } from "./qed/create.ts";
import { openQed } from "./qed/node.ts";
import { createRaw } from "./raw/create.ts";
import { openRaw } from "./raw/raw.ts";

export type { CreatedFormat } from "./create-options.ts";
export {
  type CheckOptions,
  type CheckResult,
  type CreateFormatOptions,
  FORMAT_NAMES,
  type FormatDetails,
  type FormatName,
  type FormatNode,
  type MappedFormatNode,
  type OpenFormatOptions,
  type SnapshotDetails,
} from "./format.ts";
export type { MappingLog, MappingRecord } from "./mapped/mapping-log.ts";
export { probeFormat } from "./probe.ts";

/**
 * Opens an image of a format that is known: what the file holds does not change it. The node owns the file from here; when this
 * throws, the file is still the caller's.
 *
 * @throws {StreamdiskError} `invalid-image` for what is not a valid image of the format, `unsupported` for features that
 * are not implemented, and what `openBacking` throws
 */
export async function openFormat(format: FormatName, file: BlockNode, options: OpenFormatOptions): Promise<FormatNode> {
  switch (format) {
    case "raw":
      return openRaw(file, options);
    case "qcow2":
      return openQcow2(file, options);
    case "qed":
      return openQed(file, options);
  }
}

/**
 * Makes an empty image in an empty file, durably. The file stays open and the caller's.
 *
 * @throws {StreamdiskError} `invalid-argument` for options and sizes that the format cannot have, `exists` for a file that is not empty
 */
export async function createFormat(
  format: FormatName,
  file: BlockNode,
  options: CreateFormatOptions,
): Promise<CreatedFormat> {
  switch (format) {
    case "raw":
      return createRaw(file, options);
    case "qcow2":
      return createQcow2(file, options);
    case "qed":
      return createQed(file, options);
  }
}
