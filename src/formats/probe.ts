/**
 * Tells an image's format by its first bytes, for when nobody has said it.
 *
 * A guess is only as good as its bytes: whoever may write a raw disk can make it look like an image. So a format that was
 * given is never probed, and what looks like a foreign format is refused rather than taken for raw: a guest would see its container.
 */
import type { BlockNode } from "../block/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { FormatName } from "./format.ts";

const SECTOR = 512;
const QCOW1 = "QFI\xfb\0\0\0\x01";

interface ForeignFormat {
  readonly name: string;
  readonly magic: string;
  /** Of the magic; -512 is the beginning of the last sector. */
  readonly offset: number;
}

/** Written as latin-1. Each is from the format's own description or from the header of images made by qemu-img. */
const FOREIGN: readonly ForeignFormat[] = [
  { name: "qcow (version 1)", magic: QCOW1, offset: 0 },
  { name: "VMDK", magic: "KDMV", offset: 0 },
  { name: "VMDK", magic: "COWD", offset: 0 },
  { name: "VMDK", magic: "# Disk Descr", offset: 0 },
  { name: "VDI", magic: "\x7f\x10\xda\xbe", offset: 64 },
  { name: "VHDX", magic: "vhdxfile", offset: 0 },
  { name: "VHD (vpc)", magic: "conectix", offset: 0 },
  { name: "VHD (vpc)", magic: "conectix", offset: -SECTOR },
  { name: "LUKS", magic: "LUKS\xba\xbe", offset: 0 },
  { name: "Parallels", magic: "WithoutFreeSpace", offset: 0 },
  { name: "Parallels", magic: "WithouFreSpacExt", offset: 0 },
  { name: "Bochs", magic: "Bochs Virtual HD Image", offset: 0 },
  { name: "DMG", magic: "koly", offset: -SECTOR },
];

/**
 * Looks at the first and the last sector of a file.
 *
 * @returns "raw" for everything that is not recognised, an empty file too
 * @throws {StreamdiskError} `unsupported` for the formats of other programs, by name
 */
export async function probeFormat(file: BlockNode): Promise<FormatName> {
  const head = await latin1(file, 0);
  if (head.startsWith("QED\0")) return "qed";
  if (head.startsWith("QFI\xfb") && !head.startsWith(QCOW1)) return "qcow2";
  // Only now the end: that of an image of ours is the guest's to write.
  const tail = await latin1(file, Math.max(0, file.length - SECTOR));
  const foreign = FOREIGN.find(({ magic, offset }) =>
    (offset < 0 ? tail : head).startsWith(magic, Math.max(0, offset)),
  );
  if (foreign === undefined) return "raw";
  throw new StreamdiskError(
    "unsupported",
    `'${file.name}' looks like a ${foreign.name} image, a format that is not read here; convert it with qemu-img, or name the format (raw) if it is the bytes of a disk`,
    { node: file.name },
  );
}

async function latin1(file: BlockNode, offset: number): Promise<string> {
  const bytes = Buffer.alloc(Math.min(SECTOR, file.length - offset));
  await file.read(offset, bytes);
  return bytes.toString("latin1");
}
