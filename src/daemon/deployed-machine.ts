/** The machine of a deployment: by its XML, or a usual one, with the disk that was made for it. */
import { aliasOf, defaultMachine, parseMachineXml } from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DeploymentRecord, MachineDisk, MachineSpec } from "../jobs/index.ts";
import { parseNbdUri } from "../nbd/index.ts";
import type { DomainGuards } from "./domain-guards.ts";
import { type Domains, diskId } from "./domains.ts";
import type { Machines } from "./machines.ts";

/** The disk of a deployment. */
export const DEPLOYED_TARGET = "vda";
/** How long a guest may take to power off before its machine is ended. */
const POWER_OFF_MS = 30_000;
/** How long its QEMU may take to end then: its disks are flushed. */
const QUIT_MS = 10_000;

/**
 * What a machine is made of. Of an XML the disk `vda` is the one that was made, whatever it says of its source; one without that gets it as its first.
 *
 * @param uri of the disk, when the daemon owns it
 * @throws {StreamdiskError} as the XML is refused
 */
export function deployedMachine(deployment: DeploymentRecord, uri?: string): MachineSpec {
  const { name, machine = {} } = deployment;
  const { xml, args = [] } = machine;
  if (xml === undefined) {
    return defaultMachine({ name, disks: [ourDisk(deployment, uri)], extraArguments: args });
  }
  const spec = parseMachineXml(xml);
  const said = spec.disks.find(({ target }) => target === DEPLOYED_TARGET);
  const ours = { ...said, ...ourDisk(deployment, uri), ...(said !== undefined && { alias: said.alias }) };
  const others = spec.disks.filter((disk) => disk !== said);
  return { ...spec, name, disks: [ours, ...others] };
}

function ourDisk({ overlay, format }: DeploymentRecord, uri: string | undefined): MachineDisk {
  const address = uri === undefined ? undefined : parseNbdUri(uri);
  return {
    ...{ target: DEPLOYED_TARGET, alias: aliasOf(DEPLOYED_TARGET), readOnly: false },
    source: address?.unix
      ? { kind: "nbd", socket: address.socket, exportName: address.exportName }
      : { kind: "image", path: overlay, format },
  };
}

export interface DeployedMachinesParts {
  readonly domains: Domains;
  readonly machines: Machines;
  readonly guards: DomainGuards;
}

/** Starts and ends the machines of deployments. */
export class DeployedMachines {
  readonly #domains: Domains;
  readonly #machines: Machines;
  readonly #guards: DomainGuards;

  constructor({ domains, machines, guards }: DeployedMachinesParts) {
    this.#domains = domains;
    this.#machines = machines;
    this.#guards = guards;
  }

  /** @throws {StreamdiskError} `exists` */
  refuseTaken(name: string): void {
    if (this.#domains.find(name) === undefined) return;
    throw new StreamdiskError("exists", `There is a domain '${name}' already: take another name`, { node: name });
  }

  has({ name, id }: DeploymentRecord): boolean {
    return this.#domains.find(name)?.record.deployment === id;
  }

  /** By which the jobs of its own disk are remembered. */
  diskId({ name, id }: DeploymentRecord): string | undefined {
    const held = this.#domains.find(name);
    return held?.record.deployment === id ? diskId(held, DEPLOYED_TARGET) : undefined;
  }

  /** @throws {StreamdiskError} as `Machines.run` */
  async start(deployment: DeploymentRecord, uri: string | undefined): Promise<void> {
    this.refuseTaken(deployment.name);
    const xml = deployment.machine?.xml;
    const spec = deployedMachine(deployment, uri);
    await this.#machines.run({ spec, deployment: deployment.id, ...(xml !== undefined && { xml }) });
  }

  /** Has the guest power off, ends what does not, and forgets it. One that is not there is no error. */
  async remove({ name, id }: DeploymentRecord, force: boolean): Promise<void> {
    const held = this.#domains.find(name);
    if (held === undefined || held.record.deployment !== id) return;
    const runs = (): boolean => this.#machines.process(held) !== undefined;
    const { control } = this.#guards.of(held);
    // A guest that does not power off is not asked again.
    if (runs() && !force) await control.stop({ force: false, timeoutMs: POWER_OFF_MS }).catch(() => {});
    if (runs()) await control.stop({ force: true, timeoutMs: QUIT_MS });
    await this.#machines.remove(held);
  }
}
