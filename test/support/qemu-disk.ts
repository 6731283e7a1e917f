/** A stopped QEMU with one disk over a far base, whose overlay it owns itself: what a domain of somebody else's looks like. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type DomainDescription, RunningDomain } from "../../src/domain/index.ts";
import { noise, temporaryDirectory } from "./cli.ts";
import { type NbdServerOptions, type NbdServerProcess, startNbdkit } from "./nbd-servers.ts";
import { type LiveQemu, qemuImg, qemuIo, startMonitored } from "./qemu.ts";

const MIB = 2 ** 20;

export interface QemuDiskOptions {
  readonly format: "qcow2" | "qed";
  /** @default 16 MiB */
  readonly size?: number;
  /** Milliseconds that the source takes to answer. @default 0 */
  readonly delay?: number;
  /** More arguments of QEMU. */
  readonly args?: readonly string[];
  /** Puts a copy-on-read filter over the overlay. @default false */
  readonly copyOnRead?: boolean;
}

export interface QemuDisk {
  readonly directory: string;
  readonly image: string;
  /** What the disk holds, as a raw image. */
  readonly expected: string;
  readonly source: NbdServerProcess;
  readonly qemu: LiveQemu;
  readonly domain: RunningDomain;
}

/** Half noise, half holes. */
export function halfNoise(size: number): Buffer {
  const content = noise(size, 11);
  for (let at = MIB; at < size; at += 2 * MIB) content.fill(0, at, at + MIB);
  return content;
}

/** An overlay with something of its own over a base on an NBD server. */
export async function farOverlay(
  directory: string,
  format: string,
  size: number,
  delay: number,
  options: NbdServerOptions = {},
) {
  const base = join(directory, "base.raw");
  const content = halfNoise(size);
  writeFileSync(base, content);
  const source = await startNbdkit(["--filter=delay", "file", base, `rdelay=${delay}ms`], options);
  const image = join(directory, `disk.${format}`);
  qemuImg("create", "-q", "-f", format, "-b", source.uri, "-F", "raw", image);
  qemuIo(image, ["write -P 0x5a 100k 70k"], "-f", format);
  content.fill(0x5a, 100 * 1024, 170 * 1024);
  const expected = join(directory, "expected.raw");
  writeFileSync(expected, content);
  return { source, image, expected };
}

/** A disk of a domain, by its alias alone. */
export function describedAs(name: string, alias = "virtio-disk0"): DomainDescription {
  return { name, disks: [{ target: "vda", alias, device: "disk", readOnly: false, backing: [] }] };
}

export function virtioDisk(image: string, format: string, copyOnRead = false): string[] {
  const overlay = { driver: format, "node-name": "overlay", file: { driver: "file", filename: image } };
  const top = copyOnRead
    ? { driver: "copy-on-read", "node-name": "top", file: overlay }
    : { ...overlay, "node-name": "top" };
  return ["-blockdev", JSON.stringify(top), "-device", "virtio-blk-pci,id=virtio-disk0,drive=top"];
}

export async function startQemuDisk(t: TestContext, options: QemuDiskOptions): Promise<QemuDisk> {
  const { format, size = 16 * MIB, delay = 0, args = [], copyOnRead = false } = options;
  const directory = temporaryDirectory(t);
  const far = await farOverlay(directory, format, size, delay);
  t.after(() => far.source[Symbol.asyncDispose]());
  const qmp = join(directory, "qmp");
  const qemu = await startMonitored(qmp, ...virtioDisk(far.image, format, copyOnRead), ...args);
  t.after(() => qemu.kill());
  const domain = new RunningDomain({ qmp, description: describedAs("vm"), socketDirectory: directory });
  t.after(() => domain[Symbol.asyncDispose]());
  return { directory, ...far, qemu, domain };
}
