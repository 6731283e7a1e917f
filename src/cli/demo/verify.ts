/** The demo's judges: what the disk must be, and qemu-img where it is installed. */
import { execFile } from "node:child_process";
import { open } from "node:fs/promises";
import type { FormatName } from "../../formats/index.ts";
import { openImage } from "../../image/index.ts";

/** A disk as it must be. */
export interface ExpectedDisk {
  readonly length: number;
  readonly pieceBytes: number;
  piece(offset: number): Uint8Array;
}

/** Reads the whole disk, and returns the first byte that differs from what it must be, or undefined. */
export async function firstDifference(
  path: string,
  format: FormatName,
  expected: ExpectedDisk,
  signal: AbortSignal,
): Promise<number | undefined> {
  await using image = await openImage(path, { format, readOnly: true });
  const read = new Uint8Array(expected.pieceBytes);
  for (let offset = 0; offset < expected.length; offset += expected.pieceBytes) {
    signal.throwIfAborted();
    await image.node.read(offset, read);
    const piece = expected.piece(offset);
    if (Buffer.compare(read, piece) !== 0) return offset + read.findIndex((byte, index) => byte !== piece[index]);
  }
  return undefined;
}

/** Writes it as a raw file, for judges that read files. */
export async function writeExpected(path: string, expected: ExpectedDisk, signal: AbortSignal): Promise<void> {
  const file = await open(path, "wx");
  try {
    await file.truncate(expected.length);
    for (let offset = 0; offset < expected.length; offset += expected.pieceBytes) {
      signal.throwIfAborted();
      const piece = expected.piece(offset);
      if (piece.some((byte) => byte !== 0)) await file.write(piece, 0, piece.length, offset);
    }
  } finally {
    await file.close();
  }
}

export interface Verdict {
  readonly exit: number;
  /** The first line of what it said. */
  readonly said: string;
}

/** Runs qemu-img; undefined when it is not installed. */
export async function qemuImg(args: readonly string[], signal: AbortSignal): Promise<Verdict | undefined> {
  return await new Promise((resolve, reject) => {
    execFile("qemu-img", args, { signal }, (error, stdout, stderr) => {
      const said = (stdout.trim() || stderr.trim()).split("\n")[0] ?? "";
      if (error === null) resolve({ exit: 0, said });
      else if (error.code === "ENOENT") resolve(undefined);
      else if (typeof error.code === "number") resolve({ exit: error.code, said });
      else reject(error);
    });
  });
}
