/** The demo's judges: the model, and qemu-img where it is installed. */
import { execFile } from "node:child_process";
import { open } from "node:fs/promises";
import type { FormatName } from "../../formats/index.ts";
import { openImage } from "../../image/index.ts";
import type { DiskModel } from "./model.ts";

/** Reads the whole disk, which has had so many of the model's writes, and returns the first byte that differs from the model, or undefined. */
export async function firstDifference(
  path: string,
  format: FormatName,
  model: DiskModel,
  written: number,
  signal: AbortSignal,
): Promise<number | undefined> {
  await using image = await openImage(path, { format, readOnly: true });
  const read = new Uint8Array(model.pieceBytes);
  for (let offset = 0; offset < model.length; offset += model.pieceBytes) {
    signal.throwIfAborted();
    await image.node.read(offset, read);
    const expected = model.piece(offset, written);
    if (Buffer.compare(read, expected) !== 0) return offset + read.findIndex((byte, index) => byte !== expected[index]);
  }
  return undefined;
}

/** Writes the model as a raw file, for judges that read files. */
export async function writeModel(path: string, model: DiskModel, written: number, signal: AbortSignal): Promise<void> {
  const file = await open(path, "wx");
  try {
    await file.truncate(model.length);
    for (let offset = 0; offset < model.length; offset += model.pieceBytes) {
      signal.throwIfAborted();
      const piece = model.piece(offset, written);
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
