/** The calls of the API that are about domains. */
import type { CheckedInput, Domain, Job, RouteResult } from "../api/index.ts";
import { type DomainDescription, findDisk, formatDomainXml } from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { domainDiskView, domainView, type StreamOf } from "./domain-views.ts";
import type { Domains, HeldDomain } from "./domains.ts";

export class DomainCalls {
  readonly #domains: Domains;
  readonly #streamOf: StreamOf;

  /** @param streamOf the last stream of a disk, by the id under which its jobs are remembered */
  constructor(domains: Domains, streamOf: (id: string) => Promise<Job | undefined>) {
    this.#domains = domains;
    this.#streamOf = async (name) => streamOf((await domains.disk(name)).id);
  }

  async list(): Promise<RouteResult<"listDomains">> {
    return { domains: await Promise.all(this.#domains.all().map((held) => this.#view(held))) };
  }

  async add({ name, qmp, xml }: CheckedInput<"addDomain">["body"]): Promise<Domain> {
    return this.#view(await this.#domains.add({ name, qmp, ...(xml !== undefined && { xml }) }));
  }

  show(name: string): Promise<Domain> {
    return this.#view(this.#domains.demand(name));
  }

  async remove(name: string): Promise<undefined> {
    await this.#domains.remove(name);
  }

  async xml(name: string): Promise<RouteResult<"domainXml">> {
    const held = this.#domains.demand(name);
    return { xml: held.record.xml ?? formatDomainXml(await this.#domains.describe(held)) };
  }

  async disk({ domain, device }: CheckedInput<"domainDisk">["params"]): Promise<RouteResult<"domainDisk">> {
    const { held, target } = await this.#domains.disk(`${domain}:${device}`);
    const disk = findDisk(held.running.description, target);
    const view = await domainDiskView(held.record.name, disk, this.#streamOf);
    return { ...view, ...(await this.#domains.look(held, target)) };
  }

  /** What QEMU says now; of one that does not answer what is known. */
  async #view(held: HeldDomain): Promise<Domain> {
    const { running } = held;
    try {
      const description: DomainDescription = await this.#domains.describe(held);
      const state = await running.qmp.execute("query-status", {});
      return await domainView(held.record, { state, description }, this.#streamOf);
    } catch (failure) {
      const error = failure instanceof StreamdiskError ? failure : new StreamdiskError("io", String(failure));
      const { description } = running;
      return domainView(held.record, { state: "unreachable", description, error }, this.#streamOf);
    }
  }
}
