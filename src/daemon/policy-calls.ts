/**
 * What becomes of requests that a lost source cannot answer, changed while they are served: of a disk, or of whatever of this daemon lies
 * below the disk of a machine.
 *
 * "pause" is QEMU's to do (`rerror=stop`): for a machine whose device was started without it that is refused by name, since its
 * guest would get the errors.
 */
import type { CheckedInput, RouteResult } from "../api/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import type { Store } from "../jobs/index.ts";
import type { HostedImage } from "./disk-host.ts";
import type { Disks, HeldDisk } from "./disks.ts";
import type { DomainGuards } from "./domain-guards.ts";
import { type Domains, isDomainDisk } from "./domains.ts";
import type { EventHub } from "./event-hub.ts";
import type { Exports, HeldExport } from "./exports.ts";
import { policyOf } from "./new-disk.ts";
import { unpausable } from "./pause-cause.ts";
import { policyView } from "./views.ts";

export interface PolicyCallsParts {
  readonly store: Store;
  readonly events: EventHub;
  readonly disks: Disks;
  readonly exports: Exports;
  readonly domains: Domains;
  readonly guards: DomainGuards;
}

export class PolicyCalls {
  readonly #parts: PolicyCallsParts;

  constructor(parts: PolicyCallsParts) {
    this.#parts = parts;
  }

  async set({ params, body }: CheckedInput<"setPolicy">): Promise<RouteResult<"setPolicy">> {
    const policy = policyOf(body);
    const hosts = isDomainDisk(params.disk)
      ? await this.#below(params.disk)
      : [this.#parts.disks.demand(params.disk).host];
    const warnings = policy.afterwards === "pause" ? await this.#lookAtDevices(hosts) : [];
    const { store, disks, exports } = this.#parts;
    const keep = <H extends HeldDisk | HeldExport>(held: H, put: (record: H["record"]) => Promise<void>) =>
      held.turns.run(async () => {
        const { settings } = held.record;
        held.record = { ...held.record, settings: { ...settings, onSourceError: policy } };
        await put(held.record);
        await held.host.served?.setPolicy(policy);
      });
    for (const held of disks.all()) if (hosts.includes(held.host)) await keep(held, (record) => store.putDisk(record));
    for (const held of exports.all()) {
      if (hosts.includes(held.host)) await keep(held, (record) => store.putExport(record));
    }
    const message = `When the source of '${params.disk}' is lost, reads of what is missing ${inWords(policy)} from now on`;
    await this.#parts.events.tell("disk-changed", message, { disk: params.disk });
    return { onSourceError: policyView(policy), warnings };
  }

  /** What of this daemon lies below the disk of a machine. */
  async #below(name: string): Promise<HostedImage[]> {
    const { held, target } = await this.#parts.domains.disk(name);
    const { guard } = this.#parts.guards.of(held);
    await guard.turns.run(() => guard.refresh());
    const drive = guard.drives.find((one) => one.name === target);
    const hosts = drive?.served.map(({ host }) => host) ?? [];
    if (hosts.length > 0) return hosts;
    const message = `Nothing that this daemon serves lies below '${name}': what its QEMU does when its source is lost was said when it was started`;
    throw new StreamdiskError("unsupported", message, { node: name });
  }

  /** @returns what can't be seen of the devices of machines that use them */
  async #lookAtDevices(hosts: readonly HostedImage[]): Promise<string[]> {
    const warnings: string[] = [];
    for (const held of this.#parts.domains.all()) {
      const { drives } = this.#parts.guards.of(held).guard;
      for (const drive of drives.filter(({ served }) => served.some(({ host }) => hosts.includes(host)))) {
        const name = `${held.record.name}:${drive.name}`;
        const wrong = unpausable(name, drive);
        if (wrong === undefined) continue;
        if (drive.stopsOnErrors === "no") throw new StreamdiskError("refused", wrong, { node: name });
        warnings.push(wrong);
      }
    }
    return warnings;
  }
}

function inWords({ holdMs, afterwards }: SourcePolicy): string {
  const then = afterwards === "pause" ? "pause its machine" : "fail";
  if (holdMs === 0) return `${then} at once`;
  return holdMs === Number.POSITIVE_INFINITY ? "wait for as long as it takes" : `wait ${holdMs / 1000} s, then ${then}`;
}
