/**
 * An archive as the kernel unpacks it for its first file system: cpio in the format "newc" (initramfs buffer format, in the kernel's
 * documentation). A header of 13 numbers in eight hexadecimal digits each, the name and the data, both padded to four bytes.
 */

export interface ArchiveEntry {
  /** Without a slash at its beginning. */
  readonly name: string;
  /** Absent: a directory. */
  readonly data?: Uint8Array;
}

const MAGIC = "070701";
const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const ALIGNMENT = 4;

/** @param entries a directory before what is in it; every file may be executed */
export function cpioArchive(entries: readonly ArchiveEntry[]): Buffer {
  const parts = entries.flatMap(({ name, data }, index) =>
    entryParts(index + 1, data === undefined ? DIRECTORY : PROGRAM, name, data ?? new Uint8Array()),
  );
  return Buffer.concat([...parts, ...entryParts(0, 0, "TRAILER!!!", new Uint8Array())]);
}

function entryParts(inode: number, mode: number, name: string, data: Uint8Array): Uint8Array[] {
  const [user, group, links, time, device, check] = [0, 0, 1, 0, 0, 0];
  const named = Buffer.from(`${name}\0`, "latin1");
  const fields = [
    ...[inode, mode, user, group, links, time, data.length],
    ...[device, device, device, device, named.length, check],
  ];
  const header = Buffer.from(MAGIC + fields.map((field) => field.toString(16).padStart(8, "0")).join(""), "latin1");
  return [header, named, padding(header.length + named.length), data, padding(data.length)];
}

function padding(length: number): Uint8Array {
  return new Uint8Array((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT);
}
