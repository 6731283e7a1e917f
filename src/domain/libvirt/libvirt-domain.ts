/** A domain that libvirt runs: its XML, its state, and the way to its monitor. All by `virsh`. */
import type { Clock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import type { DomainDescription } from "../description.ts";
import { DEFAULT_TIMEOUT_MS, type QmpTransport } from "../qmp/transport.ts";
import { parseDomainXml } from "../xml/parse-domain.ts";
import { checkConnectUri, checkDomainName, defaultConnectUri, type LibvirtAddress } from "./address.ts";
import { runVirsh } from "./virsh.ts";
import { virshTransport } from "./virsh-monitor.ts";

const LONGEST_XML = 4 * 2 ** 20;
const LONGEST_STATE = 100;

export interface LibvirtDomainOptions {
  /** Name or UUID. */
  readonly name: string;
  /** URI of a libvirt on this host. @default "qemu:///system" as root, otherwise "qemu:///session" */
  readonly connect?: string | undefined;
  /** How long virsh may take, in milliseconds. @default 30000 */
  readonly timeoutMs?: number | undefined;
  readonly clock?: Clock | undefined;
}

export class LibvirtDomain {
  readonly address: LibvirtAddress;
  /** For `RunningDomain` and `QmpClient`. libvirt marks the domain as tainted when it is used. */
  readonly monitor: QmpTransport;
  readonly #options: LibvirtDomainOptions;

  /** @throws {StreamdiskError} `invalid-argument`, `refused` for a name and a URI that can't be used */
  constructor(options: LibvirtDomainOptions) {
    const connect = checkConnectUri(options.connect ?? defaultConnectUri());
    this.address = { name: checkDomainName(options.name), connect };
    this.monitor = virshTransport(this.address);
    this.#options = options;
  }

  /** Its XML as it is now (`virsh dumpxml`). @throws {StreamdiskError} what `runVirsh` throws */
  xml(signal?: AbortSignal): Promise<string> {
    return this.#run("dumpxml", LONGEST_XML, signal);
  }

  /** @throws {StreamdiskError} as `xml` and `parseDomainXml` */
  async describe(signal?: AbortSignal): Promise<DomainDescription> {
    return parseDomainXml(await this.xml(signal));
  }

  /** What libvirt says of it (`virsh domstate`): "running", "shut off"...; "gone" when there is none of the name. */
  async state(signal?: AbortSignal): Promise<string> {
    try {
      return (await this.#run("domstate", LONGEST_STATE, signal)).trim();
    } catch (error) {
      if (error instanceof StreamdiskError && error.code === "not-found") return "gone";
      throw error;
    }
  }

  async #run(command: string, limit: number, signal: AbortSignal | undefined): Promise<string> {
    const { timeoutMs = DEFAULT_TIMEOUT_MS, clock } = this.#options;
    return (await runVirsh(this.address, command, [], { timeoutMs, limit, clock, signal })).toString("utf8");
  }
}
