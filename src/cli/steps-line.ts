/** What is being done of a deployment, in a line of a terminal that is taken away when it is made. */
import { setTimeout as sleep } from "node:timers/promises";
import type { DaemonClient } from "../client/index.ts";
import { deployedSteps } from "./deployment-lines.ts";
import { printable } from "./output.ts";
import type { MeterScreen } from "./progress.ts";

const LOOK_MS = 200;
const ERASE = "\r\u001b[K";

/** Shows it until the signal aborts; nothing where there is no terminal. */
export async function showSteps(
  client: DaemonClient,
  name: string,
  signal: AbortSignal,
  screen: MeterScreen = process.stderr,
): Promise<void> {
  if (!screen.isTTY) return;
  while (!signal.aborted) {
    const params = { deployment: name };
    // It is not known right at the beginning. What goes wrong is told by whoever waits for it to be made.
    const made = await client.call("getDeployment", { params }, { signal }).catch(() => undefined);
    const done = made === undefined || made.steps.length === 0 ? "" : ` ${deployedSteps(made)}`;
    const line = printable(`'${name}' is being made:${done} ...`);
    screen.write(`${ERASE}${line.slice(0, (screen.columns || 80) - 1)}`);
    await sleep(LOOK_MS, undefined, { signal }).catch(() => {});
  }
  screen.write(ERASE);
}
