/** What goes wrong in a race: sources fail and come back, one of them turns out to be another, the overlay's disk is full for a while. */
import type { Fault, Faults } from "../../src/filters/index.ts";
import { below, chance, oneOf, type Random } from "../support/draw.ts";
import type { RaceDisk } from "./race-disk.ts";

export class Troubles {
  /** How many there were. */
  count = 0;
  /** Whether a source has changed for good. */
  changed = false;
  /** Whether there was no room at some time. */
  full = false;
  readonly #random: Random;
  readonly #disk: RaceDisk;
  readonly #rate: number;
  readonly #mayFill: boolean;
  readonly #mayChange: boolean;
  readonly #lifts = new Map<Faults, () => void>();
  #over = false;

  constructor(disk: RaceDisk, random: Random) {
    this.#disk = disk;
    this.#random = random;
    this.#rate = chance(random, 0.7) ? 1 / 30 : 0;
    this.#mayFill = chance(random, 0.15);
    this.#mayChange = chance(random, 0.04);
  }

  /** A moment passes. */
  step(): void {
    if (this.#over) return;
    for (const { faults } of this.#disk.sources) this.#maybe(faults, () => this.#drawFault(faults.length));
    if (this.#mayFill) this.#maybe(this.#disk.faults, () => ({ operations: ["write"], does: "no-space" }));
  }

  #maybe(faults: Faults, draw: () => Fault): void {
    const lift = this.#lifts.get(faults);
    if (lift !== undefined) {
      if (chance(this.#random, 1 / 40)) lift();
      return;
    }
    if (!chance(this.#random, this.#rate)) return;
    const fault = draw();
    this.count++;
    if (fault.does === "no-space") this.full = true;
    const remove = faults.add(fault);
    this.#lifts.set(faults, () => {
      remove();
      faults.thaw();
      this.#lifts.delete(faults);
    });
  }

  #drawFault(length: number): Fault {
    const random = this.#random;
    if (this.#mayChange && chance(random, 0.2)) {
      this.changed = true;
      return { does: "changed" };
    }
    const range = { offset: below(random, length), length: Math.ceil(length / 4) };
    return oneOf<Fault>(random, [
      { does: "source-lost" },
      { does: "source-lost", chance: 0.5 },
      { does: "source-lost", range },
      { does: "io" },
      { does: "io", range },
      { does: "freeze" },
      { does: "protocol", times: 1 },
      { does: { delayMs: 50 } },
      // One is left behind while others pass it.
      { does: "freeze", times: 1 },
      { does: { delayMs: 1000 }, chance: 0.2 },
    ]);
  }

  /** All is well from now on, but for a source that has changed. */
  end(): void {
    this.#over = true;
    for (const lift of [...this.#lifts.values()]) lift();
  }
}
