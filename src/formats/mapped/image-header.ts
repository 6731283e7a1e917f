import type { BackingReference } from "../../block/index.ts";
import type { CheckOptions, CheckResult, FormatDetails } from "../format.ts";

/** What a format does to its header, each durable when it resolves. */
export interface ImageHeader {
  /** Says on disk that the image is being changed, and that features we do not keep up are void. */
  markDirty(): Promise<void>;
  markClean(): Promise<void>;
  /** @throws {StreamdiskError} `refused` when the size may not be changed */
  allowResize(): void;
  setLength(length: number): Promise<void>;
  /**
   * Writes a larger L1 table, with room for `length`, to another place, or refuses. Nothing is dirty.
   * @returns turns the header to it, and is to be called when it is durable
   */
  growL1(length: number): Promise<() => Promise<void>>;
  /** @throws {StreamdiskError} `refused` when the link may not be changed */
  setBacking(reference: BackingReference | undefined): Promise<void>;
  describe(): FormatDetails;
  check(options: CheckOptions): Promise<CheckResult>;
}
