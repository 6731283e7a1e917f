/**
 * What kind of file system a file lies in, and how much room it has left: statfs(2), through node:fs.
 */
import { type StatsFs, statfs } from "node:fs";
import { promisify } from "node:util";

/** Where a system call may wait for another machine or another process, by statfs's magic numbers (linux/magic.h). */
const REMOTE: Readonly<Record<number, string>> = {
  26985: "NFS", // 0x6969
  4283649346: "CIFS", // 0xff534d42
  4266872130: "SMB2", // 0xfe534d42
  20859: "SMB", // 0x517b
  1702057286: "FUSE", // 0x65735546
  16914839: "9p", // 0x01021997
  12805120: "Ceph", // 0x00c36400
  1397113167: "AFS", // 0x5346414f
  18225520: "GFS2", // 0x01161970
  1952539503: "OCFS2", // 0x7461636f
};

const TMPFS_MAGIC = 0x01021994;

/** Where a range of a file can be given back in no time (fallocate(2), FALLOC_FL_PUNCH_HOLE). */
const PUNCHES: readonly number[] = [
  0x0000ef53, // ext4
  0x58465342, // XFS
  0x9123683e, // Btrfs
  0xf2f52010, // F2FS
  0x2fc12fc1, // ZFS
  0xca451a4e, // bcachefs
  TMPFS_MAGIC,
];

export interface FileSystemFacts {
  /** Bytes that this user may still fill. */
  readonly freeBytes: number;
  /** Whether it lies in memory. */
  readonly tmpfs: boolean;
  /** Whether it is known to give back a range of a file faster than zeroes are written to it. */
  readonly punches: boolean;
  /** The name of a kind that may hang when a network or a process does; undefined for a local one. */
  readonly remote: string | undefined;
}

const statfsAsync: (path: string) => Promise<StatsFs> = promisify(statfs);

/**
 * Facts of the file system that `path` lies in.
 *
 * @throws what node:fs throws
 */
export async function fileSystemFacts(path: string): Promise<FileSystemFacts> {
  return factsOf(await statfsAsync(path));
}

/** Reads the answer of node:fs's statfs. */
export function factsOf(stat: StatsFs): FileSystemFacts {
  // The kernel's field is a signed word on some machines.
  const magic = stat.type >>> 0;
  return {
    freeBytes: stat.bavail * stat.bsize,
    tmpfs: magic === TMPFS_MAGIC,
    punches: PUNCHES.includes(magic),
    remote: REMOTE[magic],
  };
}

/** Which file it is, whatever path leads to it: from fstat, with a block device's own number as `dev`. */
export interface FileIdentity {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly birthtimeNs: bigint;
}
