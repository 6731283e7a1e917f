/** Which guest this machine can have: a real one where there is QEMU, a kernel and a busybox, or where those two can be had. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { emulatorOnPath } from "../../domain/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { bootPartsBelow } from "./boot/boot-parts.ts";
import { fetchBootParts } from "./boot/fetch-parts.ts";
import { writeInitramfs } from "./boot/initramfs.ts";
import { GUEST_MODULES, INIT_SCRIPT } from "./guest-program.ts";

export type GuestChoice =
  | { readonly kind: "machine"; readonly kernel: string; readonly initramfs: string; readonly from: string }
  /** Sentences: why it is no machine, and how to get one. */
  | { readonly kind: "client"; readonly why: string };

/** @param directory where what is booted may be made and fetched; it is made too */
export async function chooseGuest(directory: string, signal: AbortSignal): Promise<GuestChoice> {
  if ((await emulatorOnPath("x86_64")) === undefined) {
    const how = "'apt install qemu-system-x86 qemu-utils' (or the like) gets you a real machine";
    return { kind: "client", why: `There is no qemu-system-x86_64 on the PATH: ${how}.` };
  }
  try {
    await mkdir(directory);
    const here = bootPartsBelow("/");
    const parts = here ?? (await fetchBootParts(directory, signal));
    const initramfs = join(directory, "initramfs");
    writeInitramfs(initramfs, parts, INIT_SCRIPT, GUEST_MODULES);
    const from = here === undefined ? "of packages that were fetched" : "of this machine";
    return { kind: "machine", kernel: parts.kernel, initramfs, from };
  } catch (error) {
    if (!(error instanceof StreamdiskError)) throw error;
    return { kind: "client", why: `There is QEMU, but nothing to boot. ${error.message}.` };
  }
}
