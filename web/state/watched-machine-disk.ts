/**
 * One disk that a machine's QEMU owns. How much of it is local QEMU is asked when the page comes and when something has happened to the disk:
 * to count takes an export that is put into QEMU for it. While a stream runs its own figures are there for nothing.
 */
import { signal } from "@preact/signals";
import { daemonClient } from "../session.ts";
import { type MachineDiskNow, machineDisk } from "./machines.ts";

export class WatchedMachineDisk {
  readonly name: string;
  readonly now = signal<MachineDiskNow | undefined>(undefined);
  /** Why nothing is known of it now. */
  readonly error = signal<string | undefined>(undefined);
  readonly #signal: AbortSignal;
  #looks: Promise<void> | undefined;

  constructor(name: string, signal: AbortSignal) {
    this.name = name;
    this.#signal = signal;
  }

  /** Looks at it anew, once for all who ask meanwhile. */
  refresh(): Promise<void> {
    this.#looks ??= this.#look().finally(() => {
      this.#looks = undefined;
    });
    return this.#looks;
  }

  async replaceSource(order: { readonly backing: string; readonly force: boolean }): Promise<void> {
    await daemonClient().call("replaceDomainSource", { params: this.#params, body: order });
  }

  async #look(): Promise<void> {
    try {
      this.now.value = await daemonClient().call("domainDisk", { params: this.#params }, { signal: this.#signal });
      this.error.value = undefined;
    } catch (error) {
      if (this.#signal.aborted) return;
      // Its stream may have figures all the same.
      this.error.value = error instanceof Error ? error.message : String(error);
    }
  }

  /** The stream of the list is newer than that of the last look. */
  get stream() {
    return machineDisk(this.name)?.disk.stream ?? this.now.value?.stream;
  }

  get #params() {
    const [domain = "", device = ""] = this.name.split(":", 2);
    return { domain, device };
  }
}
