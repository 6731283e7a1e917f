import type { BlockNode } from "../block/index.ts";
import type { KnownSource } from "../filters/index.ts";
import type { FormatName, FormatNode } from "../formats/index.ts";
import type { FileNode, SourceNode, SourceOptions } from "../sources/index.ts";
import type { LatePolicy } from "./late-image.ts";

/** What to open, as plain data: it can be stored, compared and sent. */
export interface ImageSpec {
  /** Path of the image file, or URI of where it is. */
  readonly file: string;
  /** Given, it is believed. Absent, the first bytes of the file decide. */
  readonly format?: FormatName;
  /** @default false */
  readonly readOnly?: boolean;
  /**
   * What lies below, in place of what the image says: another image, or `null` to leave the link unfollowed (what is missing
   * then cannot be read).
   */
  readonly backing?: ImageSpec | null;
}

/** Which backing references are followed, and how files are locked. */
export interface ChainPolicy {
  /**
   * Files and directories that an image may name beside those below the directory of the image that the user named, and
   * URIs, each with all that lies below it; "any" follows every reference.
   */
  readonly allowBacking?: readonly string[] | "any";
  /**
   * False opens without locks, also an image that another program writes at the time: what is read may be stale.
   *
   * @default true
   */
  readonly lock?: boolean;
  /** Leaves a link that cannot be followed alone, with a warning. @default false */
  readonly partial?: boolean;
  /** For sources that speak TLS. */
  readonly sourceOptions?: SourceOptions;
  /** Put around the file of every backing image, and around a top that lies elsewhere and is only read: what happens on the way from a source. It closes what it is put around. */
  readonly wrapSource?: (source: SourceNode, identity: string) => BlockNode;
  /** What sources on other machines were before: one that is another now is found to have changed. */
  readonly known?: readonly KnownSource[];
  /** Opens the chain also when the source of a backing image is away, which is opened when it is back. Absent: that is an error. */
  readonly late?: LatePolicy;
  /** Opens the top for `check`: damaged as it is, without repair. */
  readonly forCheck?: boolean;
}

/** One image of an opened chain. */
export interface ChainLayer {
  /** As the user named it; of a backing file a URI, or absolute and with symbolic links resolved. */
  readonly path: string;
  readonly format: FormatName;
  readonly node: FormatNode;
  /** Absent when it is not a file of this machine. */
  readonly file: FileNode | undefined;
  /** Two names of one file or export have the same. */
  readonly identity: string;
}

/** An opened image with all that lies below it. */
export interface Chain extends AsyncDisposable {
  /** The top: reads of it see the whole chain. */
  readonly node: FormatNode;
  /** From the top to the bottom; at least one. */
  readonly layers: readonly ChainLayer[];
  /** Whether the bottom was reached: false when a link was left unfollowed. */
  readonly whole: boolean;
  /** What its user should know, each a sentence. */
  readonly warnings: readonly string[];
  /** Closes what a stream has taken out: layers that nothing links to any more. */
  closeUnlinked(): Promise<void>;
  /** Flushes and closes every layer. A second close does nothing. */
  close(): Promise<void>;
}
