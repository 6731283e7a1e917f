import { useState } from "preact/hooks";
import type { Machine } from "../machine-words.ts";
import { daemonClient } from "../session.ts";
import { lookAtMachinesNow } from "../state/machines.ts";
import { useAct } from "./act.ts";
import { Dialog } from "./dialog.tsx";

/** QEMU runs, and its guest does not, or cannot. */
const STILL: ReadonlySet<string> = new Set([
  "paused",
  "io-error",
  "prelaunch",
  "suspended",
  "watchdog",
  "internal-error",
]);

/** What one can do with a machine. What its guest may lose something by is asked before. */
export function MachineActions({ machine }: { readonly machine: Machine }) {
  const { act, onClick, busy } = useAct(lookAtMachinesNow);
  const [asks, setAsks] = useState(false);
  const { name, state } = machine;
  const client = daemonClient();
  const params = { domain: name };
  const button = (label: string, press: () => void) => (
    <button type="button" disabled={busy} aria-label={`${label} ${name}`} onClick={press}>
      {label}
    </button>
  );
  const start = async (): Promise<string> => {
    await client.call("startDomain", { params, body: {} });
    return `'${name}' runs`;
  };
  const pause = async (): Promise<string> => {
    await client.call("pauseDomain", { params });
    return `'${name}' is paused until it is resumed`;
  };
  const resume = async (): Promise<string> => {
    await client.call("resumeDomain", { params });
    return `'${name}' goes on`;
  };
  // One of the daemon's own can be ended also when it does not answer.
  const runs = machine.machine === undefined ? machine.error === undefined : machine.machine.pid !== undefined;
  return (
    <div class="actions">
      {machine.machine !== undefined && state === "stopped" && button("Start", onClick(start))}
      {state === "running" && button("Pause", onClick(pause))}
      {STILL.has(state) && button("Resume", onClick(resume))}
      {runs && button("Stop…", () => setAsks(true))}
      {asks && (
        <Dialog
          title={`Stop ${name}?`}
          act="Stop it"
          dangerous
          onClose={() => setAsks(false)}
          onAct={(form) =>
            act(async () => {
              await client.call("stopDomain", { params, body: { force: form.get("force") !== null } });
              return `'${name}' has ended`;
            })
          }
        >
          <p>Its system is asked to power itself off. What was fetched of its disks stays.</p>
          <label class="check">
            <input type="checkbox" name="force" /> End its QEMU without asking: what the system has not written to its
            disks is lost
          </label>
        </Dialog>
      )}
    </div>
  );
}
