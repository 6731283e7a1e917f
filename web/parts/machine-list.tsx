import { endOf, type Machine, type MachineDisk, machineCondition, machineDiskCondition } from "../machine-words.ts";
import { type Deployment, deployments, machines } from "../state/machines.ts";
import { pathOf } from "../state/route.ts";
import { bytes, duration, forPeople, percent, rate, reasonOf } from "../words.ts";
import { FiguresBar } from "./bar.tsx";
import { MachineActions } from "./machine-actions.tsx";

/** The machines whose disks their QEMU owns; nothing where there are none. */
export function MachineList() {
  const all = machines.value ?? [];
  const made = deployments.value;
  if (all.length === 0 && made.length === 0) return null;
  return (
    <section class="machines" aria-labelledby="machines">
      <h2 id="machines">Machines</h2>
      <ul class="disks">
        {all.map((machine) => (
          <MachineRow key={machine.name} machine={machine} />
        ))}
      </ul>
      {made.length > 0 && (
        <>
          <h3>Made from images</h3>
          <ul class="deployments">
            {made.map((deployment) => (
              <DeploymentRow key={deployment.name} deployment={deployment} />
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

function DeploymentRow({ deployment }: { readonly deployment: Deployment }) {
  const { name, state, image, disk, hydrated } = deployment;
  const doing = { making: "being made", removing: "being removed", ready: undefined }[state];
  return (
    <li>
      <strong>{name}</strong> from <span class="uri">{image}</span>: its disk <a href={pathOf(disk)}>{disk}</a>{" "}
      {hydrated ? "stands alone, and needs the image no more" : "is filled from it"}
      {doing !== undefined && <span class="hint"> ({doing})</span>}
    </li>
  );
}

function MachineRow({ machine }: { readonly machine: Machine }) {
  const { name, disks, error, pause } = machine;
  const { word, tone } = machineCondition(machine);
  const end = endOf(machine);
  return (
    <li class="machine" data-tone={tone}>
      <h3>{name}</h3>
      <span class="state" data-tone={tone}>
        {word}
      </span>
      <MachineActions machine={machine} />
      {end !== undefined && <p class="disk-reason">{end}</p>}
      {pause !== undefined && <p class="disk-reason">{forPeople(pause.reason)}</p>}
      {error !== undefined && <p class="disk-reason">{forPeople(error.message)}</p>}
      {disks.length === 0 && <p class="hint">No disks are known of it.</p>}
      <ul class="disks">
        {disks.map((disk) => (
          <MachineDiskRow key={disk.name} disk={disk} />
        ))}
      </ul>
    </li>
  );
}

function MachineDiskRow({ disk }: { readonly disk: MachineDisk }) {
  const { name, alias, format, backing, stream } = disk;
  const { word, tone } = machineDiskCondition(disk);
  const runs = stream?.state === "running" ? stream : undefined;
  const reason = reasonOf(stream);
  return (
    <li>
      <a class="disk" href={pathOf(name)} data-tone={tone}>
        <span class="disk-name">{name}</span>
        <span class="state" data-tone={tone}>
          {word}
        </span>
        {stream !== undefined && (
          <>
            <FiguresBar label={name} {...stream} />
            <span class="disk-share">{percent(stream.length - stream.missingBytes, stream.length)}</span>
          </>
        )}
        <span class="disk-facts">
          {stream !== undefined && <span>{bytes(stream.length)}</span>}
          {stream !== undefined && stream.missingBytes > 0 && <span>{bytes(stream.missingBytes)} missing</span>}
          {runs !== undefined && <span>{rate(runs.rate)}</span>}
          {runs?.etaSeconds !== undefined && <span>{duration(runs.etaSeconds)} left</span>}
          {stream === undefined && backing !== undefined && <span>over {backing}</span>}
          {format !== undefined && <span>{format}</span>}
          {alias !== undefined && <span>{alias}</span>}
        </span>
        {reason !== undefined && <span class="disk-reason">{forPeople(reason)}</span>}
      </a>
    </li>
  );
}
