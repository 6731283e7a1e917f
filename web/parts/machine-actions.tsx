import { daemonClient } from "../session.ts";
import { lookAtMachinesNow, type Machine } from "../state/machines.ts";
import { useAct } from "./act.ts";

/** What one can do with a machine. */
export function MachineActions({ machine }: { readonly machine: Machine }) {
  const [act, busy] = useAct(lookAtMachinesNow);
  const { name } = machine;
  const params = { domain: name };
  const button = (label: string, what: () => Promise<string>) => (
    <button
      type="button"
      disabled={busy}
      aria-label={`${label} ${name}`}
      onClick={() => void act(what).catch(() => {})}
    >
      {label}
    </button>
  );
  const start = async (): Promise<string> => {
    await daemonClient().call("startDomain", { params, body: {} });
    return `'${name}' runs`;
  };
  return (
    <div class="actions">{machine.machine !== undefined && machine.state === "stopped" && button("Start", start)}</div>
  );
}
