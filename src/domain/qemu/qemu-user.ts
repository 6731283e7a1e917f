/**
 * As which user a QEMU runs, which makes its sockets as that user. It tells the ids of the threads of its processors, and the kernel whose
 * they are. A QEMU that has none, or lives where its ids mean something else (a container), is not known.
 */
import { readFile } from "node:fs/promises";
import type { QmpClient } from "../qmp/client.ts";

export interface QemuUser {
  readonly uid: number;
  readonly gid: number;
}

export async function qemuUser(qmp: QmpClient, signal?: AbortSignal): Promise<QemuUser | undefined> {
  const [thread] = await qmp.execute("query-cpus-fast", {}, { signal });
  if (thread === undefined) return undefined;
  try {
    const status = await readFile(`/proc/${thread}/status`, "utf8");
    const process = /^Tgid:\s+(\d+)$/m.exec(status)?.[1];
    const name = await readFile(`/proc/${process}/comm`, "utf8");
    if (!/qemu|kvm/.test(name)) return undefined;
    // Real, effective, saved, and that by which files are made.
    const [uid, gid] = ["Uid", "Gid"].map(
      (of) => new RegExp(`^${of}:(?:\\s+\\d+){3}\\s+(\\d+)$`, "m").exec(status)?.[1],
    );
    return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
  } catch {
    return undefined;
  }
}
