/** What a guest boots: Debian's cloud kernel and a static busybox. */
import { accessSync, constants, globSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

export interface BootParts {
  readonly kernel: string;
  /** The directory of the kernel's modules. */
  readonly modules: string;
  readonly busybox: string;
}

/** Where the loader of a program is named that is not static: near its beginning. */
const BYTES_OF_HEADERS = 4096;

/** What there is below a root; undefined when something is missing, may not be read, or is of another kind. */
export function bootPartsBelow(root: string): BootParts | undefined {
  const kernel = globSync(join(root, "boot/vmlinuz-*-cloud-amd64"))
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }))
    .at(-1);
  if (kernel === undefined) return undefined;
  const version = basename(kernel).slice("vmlinuz-".length);
  const modules = ["lib", "usr/lib"].map((place) => join(root, place, "modules", version)).find(isReadable);
  const busybox = ["bin/busybox", "usr/bin/busybox"].map((place) => join(root, place)).find(isStatic);
  if (!isReadable(kernel) || modules === undefined || busybox === undefined) return undefined;
  return { kernel, modules, busybox };
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function isStatic(path: string): boolean {
  return isReadable(path) && !readFileSync(path).subarray(0, BYTES_OF_HEADERS).includes("/ld-");
}
