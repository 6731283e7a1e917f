/**
 * The programs that the tests measure streamdisk against. They are requirements: a test that finds one missing fails.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants, globSync } from "node:fs";
import { delimiter, join } from "node:path";

/** A Debian package and the commands of it that the tests run. */
export interface Peer {
  readonly debianPackage: string;
  readonly commands: readonly string[];
  /** A pattern of the file that it is there for, when that is not a command. */
  readonly file?: string;
  /** What the tests need it for. */
  readonly purpose: string;
}

export const PEERS: readonly Peer[] = [
  {
    debianPackage: "qemu-utils",
    commands: ["qemu-img", "qemu-io", "qemu-nbd"],
    purpose: "the judge of qcow2, QED and raw images",
  },
  {
    debianPackage: "qemu-system-x86",
    commands: ["qemu-system-x86_64"],
    purpose: "a live QEMU that holds an image's locks",
  },
  { debianPackage: "nbdkit", commands: ["nbdkit"], purpose: "sources with known content, delay and faults" },
  { debianPackage: "libnbd-bin", commands: ["nbdcopy", "nbdinfo"], purpose: "an NBD client that is not QEMU's" },
  { debianPackage: "python3-libnbd", commands: ["nbdsh"], purpose: "the same, one command at a time" },
  { debianPackage: "fio", commands: ["fio"], purpose: "load on an NBD server" },
  { debianPackage: "gnutls-bin", commands: ["certtool", "psktool"], purpose: "certificates and keys for TLS" },
  {
    debianPackage: "systemd",
    commands: ["systemd-analyze"],
    purpose: "the judge of the unit that runs the daemon, and what runs it",
  },
  {
    debianPackage: "linux-image-cloud-amd64",
    commands: [],
    file: "/boot/vmlinuz-*-cloud-amd64",
    purpose: "the kernel of a guest",
  },
  { debianPackage: "chromium", commands: ["chromium"], purpose: "a browser for the daemon's page" },
  {
    debianPackage: "libvirt-daemon",
    commands: [],
    file: "/usr/sbin/libvirtd",
    purpose: "a libvirt whose machines are filled",
  },
  {
    debianPackage: "libvirt-daemon-driver-qemu",
    commands: [],
    file: "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so",
    purpose: "the part of it that runs QEMU",
  },
  {
    debianPackage: "libvirt-clients",
    commands: ["virsh"],
    purpose: "the way to speak to libvirt, and the judge of what it is given",
  },
  {
    debianPackage: "e2fsprogs",
    commands: [],
    file: "/sbin/e2fsck",
    purpose: "the file system of a guest, and its judge",
  },
  { debianPackage: "busybox-static", commands: ["busybox"], purpose: "all else that a guest needs" },
];

function isInstalled(command: string): boolean {
  return (process.env.PATH ?? "").split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, command), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

export function missingPeers(): Peer[] {
  return PEERS.filter(({ commands, file }) => {
    return !commands.every(isInstalled) || (file !== undefined && globSync(file).length === 0);
  });
}

/**
 * Makes sure that every peer is there. As root on Debian it installs what is missing; otherwise it says what to run.
 *
 * @returns whether all are there now
 */
export function ensurePeers(): boolean {
  const missing = missingPeers();
  if (missing.length === 0) return true;

  console.log("The tests need these Debian packages, which are missing here:");
  for (const peer of missing) console.log(`  ${peer.debianPackage.padEnd(18)} ${peer.purpose}`);
  const packages = missing.map((peer) => peer.debianPackage);
  if (process.getuid?.() !== 0 || !isInstalled("apt-get")) {
    console.error(
      `Run this first: sudo apt-get update && sudo apt-get install --no-install-recommends ${packages.join(" ")}`,
    );
    return false;
  }

  // A list that cannot be refreshed need not be in the way of the install, which says what is wrong if it is.
  aptGet("update", "-qq");
  aptGet("install", "-qq", "-y", "--no-install-recommends", ...packages);
  const still = missingPeers();
  for (const peer of still) {
    console.error(
      `Package '${peer.debianPackage}' could not be installed: no ${peer.file ?? `${peer.commands.join(", ")} on the PATH`}`,
    );
  }
  return still.length === 0;
}

function aptGet(...args: string[]): void {
  console.log(`apt-get ${args.join(" ")}`);
  spawnSync("apt-get", ["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", ...args], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  });
}
