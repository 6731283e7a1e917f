import { readFileSync } from "node:fs";

/** Names the current run of this machine: 32 hexadecimal digits; undefined where the system does not tell. */
export function bootId(): string | undefined {
  try {
    const digits = readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim().replaceAll("-", "");
    return /^[0-9a-f]{32}$/.test(digits) ? digits : undefined;
  } catch {
    return undefined;
  }
}
