/** Who looks after the machines: a guard and the controls of each, for as long as the daemon has it. */
import { StreamdiskError } from "../errors/index.ts";
import { DomainControl } from "./domain-control.ts";
import { DomainGuard, type DomainGuardParts } from "./domain-guard.ts";
import type { HeldDomain } from "./domains.ts";

interface Guarded {
  readonly guard: DomainGuard;
  readonly control: DomainControl;
}

export class DomainGuards {
  readonly #parts: DomainGuardParts;
  readonly #byDomain = new Map<HeldDomain, Guarded>();

  constructor(parts: DomainGuardParts) {
    this.#parts = parts;
  }

  begin(held: HeldDomain): void {
    const guard = new DomainGuard(held, this.#parts);
    this.#byDomain.set(held, { guard, control: new DomainControl(held, guard, this.#parts.machines()) });
    guard.start();
  }

  /** What is being done with it ends, and nothing of it is remembered afterwards. */
  async end(held: HeldDomain): Promise<void> {
    const guarded = this.#byDomain.get(held);
    this.#byDomain.delete(held);
    await guarded?.guard.stop();
    await guarded?.control.settled();
  }

  /** @throws {StreamdiskError} `not-found` for one that was removed meanwhile */
  of(held: HeldDomain): Guarded {
    const guarded = this.#byDomain.get(held);
    if (guarded !== undefined) return guarded;
    throw new StreamdiskError("not-found", `There is no domain '${held.record.name}' any more`);
  }
}
