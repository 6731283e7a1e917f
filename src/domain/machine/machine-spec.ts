import type { Architecture, MachineSpec } from "../../jobs/index.ts";

const DEFAULT_MEMORY = 2 ** 30;

/** A machine of which little is said: 1 GiB, one CPU, no network, a serial console, and the disks that are given. */
export function defaultMachine(
  spec: Pick<MachineSpec, "name"> & Partial<MachineSpec>,
  arch: Architecture = hostArchitecture(),
): MachineSpec {
  return { arch, memory: DEFAULT_MEMORY, cpus: 1, disks: [], extraArguments: [], ...spec };
}

/** The alias that libvirt gives to a virtio disk: by the letters of its target, "vdb" is number 1. */
export function aliasOf(target: string): string {
  const letters = target.replace(/^vd/, "");
  const number = Array.from(letters).reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 96, 0);
  return `virtio-disk${number - 1}`;
}

export function hostArchitecture(): Architecture {
  return process.arch === "arm64" ? "aarch64" : "x86_64";
}
