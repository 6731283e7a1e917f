/** What QEMU can do by its monitor for people alone. It answers with nothing when it has done it, and else with what is wrong. */
import { StreamdiskError } from "../../errors/index.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { Overlay } from "./locate-overlay.ts";

/** Flushes a node without an export of it. */
export async function flushNode(qmp: QmpClient, overlay: Pick<Overlay, "node" | "name">): Promise<void> {
  await qemuIo(qmp, overlay, "flush", "flush");
}

/**
 * Puts another node below an overlay. All else stays as it was opened: `blockdev-reopen` would set back to its default what it is not
 * given, and QMP does not tell all of that (discard). What a `-drive` was given as `detect-zeroes` has to be given again.
 */
export async function relinkNode(qmp: QmpClient, overlay: Overlay, to: string): Promise<void> {
  const options = `backing=${to},detect-zeroes=${overlay.detectZeroes}`;
  await qemuIo(qmp, overlay, `reopen -o ${options}`, "change the source of");
}

async function qemuIo(
  qmp: QmpClient,
  { node, name }: Pick<Overlay, "node" | "name">,
  command: string,
  what: string,
): Promise<void> {
  const said = await qmp.execute("human-monitor-command", { "command-line": `qemu-io "${node}" "${command}"` });
  if (said.trim() === "") return;
  throw new StreamdiskError("io", `QEMU could not ${what} '${name}': ${said.trim()}`, { node: name });
}
