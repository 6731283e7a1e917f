/** What the guest of the tests boots: Debian's cloud kernel, and the small file system that the demo's guest has too, with `init.sh`. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bootPartsBelow } from "../../../src/cli/demo/boot/boot-parts.ts";
import { KERNEL_COMMAND_LINE, writeInitramfs } from "../../../src/cli/demo/boot/initramfs.ts";

export interface BootFiles {
  readonly kernel: string;
  readonly initramfs: string;
}

/**
 * @param directory where it is made
 * @param init what the guest does
 */
export function makeBootFiles(directory: string, init = join(import.meta.dirname, "init.sh")): BootFiles {
  const parts = bootPartsBelow("/");
  assert(parts !== undefined, "Debian's packages linux-image-cloud-amd64 and busybox-static are missing");
  const initramfs = join(directory, "initramfs");
  writeInitramfs(initramfs, parts, readFileSync(init, "utf8"));
  return { kernel: parts.kernel, initramfs };
}

/** What a domain's XML has of it, in its `<os>`. */
export function bootXml({ kernel, initramfs }: BootFiles): string {
  return `<kernel>${kernel}</kernel><initrd>${initramfs}</initrd><cmdline>${KERNEL_COMMAND_LINE}</cmdline>`;
}
