/**
 * Crashes: a guest lives on a disk, and at moments drawn from its journal it is seen what a crash would have left. A part of those
 * states becomes the disk of another life, which begins with the recovery and may crash in the midst of it.
 *
 * A failure says where it was. `STREAMDISK_CRASH="SHAPE/RUN"` runs that one alone, `"SHAPE/RUN/death@MOMENT"` that one state; what the
 * message says more of (`/loss@MOMENT`) is a crash of the next life.
 */
import { CRASH_KINDS, type CrashKind, type CrashState, CrashStates } from "../support/crash-state.ts";
import { below, between, chance, type Random } from "../support/draw.ts";
import { SECTOR } from "../support/file-bytes.ts";
import { eitherOf } from "../support/sector-model.ts";
import { pick, rng, seed } from "../support/seed.ts";
import type { Disk } from "./disk.ts";
import { Guest, type Workload } from "./guest.ts";
import {
  type Expectation,
  Remains,
  verifyForeignWriter,
  verifyKilledQemu,
  verifyLeakRepair,
  verifyLostCounts,
  verifyRemains,
  verifyWithQemu,
} from "./verify.ts";

/** The one state that is asked for, if any. */
const wanted: readonly string[] = (process.env.STREAMDISK_CRASH ?? "").split("/").filter((part) => part !== "");

export interface Campaign {
  /** A name of the shape of image, for messages and numbers. */
  readonly shape: string;
  /** Makes the disk of a run. */
  readonly makeDisk: (random: Random, run: number) => Promise<Disk> | Disk;
  readonly points: number;
  /** For what a peer has to see. */
  readonly directory: string;
}

export interface CampaignResult {
  readonly runs: number;
  readonly points: number;
}

/** Few in a sample, so that there are more runs. What is asked for by name is among the many. */
const POINTS_PER_RUN = wanted.length > 0 ? 24 : pick(8, 24);
const MOST_LIVES = 3;

export async function runCampaign({ shape, makeDisk, points, directory }: Campaign): Promise<CampaignResult> {
  if (wanted[0] !== undefined && wanted[0] !== shape) return { runs: 0, points: 0 };
  let seen = 0;
  let run = Number(wanted[1] ?? 0);
  for (; seen < points; run++) {
    const random = rng(`crash ${shape} ${run}`);
    const disk = await makeDisk(random, run);
    const life = new Life(disk, { path: [shape, String(run)], directory, random });
    seen += await life.run(Math.min(POINTS_PER_RUN, points - seen));
    if (wanted[1] !== undefined) break;
  }
  return { runs: run, points: seen };
}

interface LifeOptions {
  /** Shape, run, and the crash of each life before. */
  readonly path: readonly string[];
  readonly directory: string;
  readonly random: Random;
}

class Life {
  readonly #disk: Disk;
  readonly #options: LifeOptions;

  constructor(disk: Disk, options: LifeOptions) {
    this.#disk = disk;
    this.#options = options;
  }

  get #depth(): number {
    return this.#options.path.length - 2;
  }

  /** Lives, and looks at about so many crashes. Returns how many. */
  async run(points: number): Promise<number> {
    const { path, random } = this.#options;
    const guest = new Guest(this.#disk, this.#drawWork(), random);
    try {
      await guest.live();
    } catch (error) {
      throw failure(path, "while it worked", error);
    }
    const { events } = guest.journal;
    const states = new CrashStates(guest.initialBytes, this.#disk.records, events);
    let seen = 0;
    for (const { moment, kind } of this.#drawPoints(points, events.length)) {
      const name = `${kind}@${moment}`;
      const point = [...path, name];
      const numbers = rng(`crash ${point.join(" ")}`);
      const state = states.at(moment, kind, numbers);
      if (wanted[point.length - 1] !== undefined && wanted[point.length - 1] !== name) continue;
      seen += await this.#look(guest, { moment, kind, state, point, random: numbers });
    }
    return seen;
  }

  #drawWork(): Workload {
    const { random } = this.#options;
    const first = this.#depth === 0;
    const faults = chance(random, 0.15) ? random() * 0.2 : 0;
    return {
      requests: first ? between(random, 20, 120) : between(random, 2, 25),
      depth: between(random, 1, 8),
      faults,
      repairs: !first && chance(random, 0.25),
      // What is left of these when they fail is anybody's guess.
      resizes: faults === 0 && this.#disk.resizable && chance(random, 0.4),
      reopens: faults === 0 && chance(random, 0.3),
      dropsLink: faults === 0 && this.#disk.snapshot === undefined && chance(random, 0.3),
      firstValue: 1 + this.#depth * 100_000,
    };
  }

  /** Moments and kinds, moments rising. Later lives crash early, while they recover. */
  #drawPoints(count: number, events: number): { moment: number; kind: CrashKind }[] {
    const { random } = this.#options;
    const points = Array.from({ length: count }, () => ({
      moment: Math.floor((this.#depth > 0 ? random() ** 3 : random()) * (events + 1)),
      kind: CRASH_KINDS[below(random, CRASH_KINDS.length)] as CrashKind,
    }));
    return points.sort((a, b) => a.moment - b.moment);
  }

  async #look(guest: Guest, { moment, kind, state, point, random }: Look): Promise<number> {
    const disk = this.#disk;
    const { directory } = this.#options;
    const lengths = guest.lengths.at(moment);
    const sectors = Math.max(...lengths) / SECTOR;
    const allowedAfter = (how: CrashKind) =>
      Array.from({ length: sectors }, (_, sector) => guest.model.afterCrash(sector, moment, how));
    const allowed = allowedAfter(kind);
    const expected: Expectation = {
      allowed,
      lengths,
      linked: guest.linked.at(moment),
      tell: (sector) => guest.model.tell(sector),
    };
    const remains = () => new Remains(disk, state.bytes, state.log);
    try {
      await verifyRemains(remains(), expected);
      if (chance(random, 0.3)) await verifyLeakRepair(remains(), expected);
      if (chance(random, 0.2)) await verifyForeignWriter(remains(), 1_000_000);
      if (state.log.length > 0 && chance(random, 0.04)) await verifyKilledQemu(remains(), 2_000_000, directory);
      if (disk.lazyCounts && chance(random, 0.1)) await verifyLostCounts(remains(), expected, random);
      if (chance(random, disk.snapshot === undefined ? 0.04 : 0.1))
        await this.#lookWithQemu(remains(), expected, random);
    } catch (error) {
      throw failure(point, `at the crash '${point.at(-1)}'`, error);
    }
    if (this.#depth + 1 >= MOST_LIVES || !(chance(random, 0.25) || wanted.length > point.length)) return 1;
    // What is there now may be gone by a loss of power until a flush has covered it.
    const kept = kind === "loss" ? allowed : allowedAfter("loss").map((a, sector) => eitherOf(a, allowed[sector] ?? a));
    const next: Disk = {
      ...disk,
      bytes: state.bytes,
      records: state.log,
      value: (sector, how) => (how === "death" ? allowed : kept)[sector] ?? 0,
      lengths,
      linked: expected.linked,
    };
    return 1 + (await new Life(next, { ...this.#options, path: point, random }).run(4));
  }

  /** What qemu-img says of the crashed image, or of one that we have repaired. */
  async #lookWithQemu(remains: Remains, expected: Expectation, random: Random): Promise<void> {
    if (chance(random, 0.5)) await (await remains.open()).close();
    verifyWithQemu(remains, expected, this.#options.directory);
  }
}

interface Look {
  readonly moment: number;
  readonly kind: CrashKind;
  readonly state: CrashState;
  readonly point: readonly string[];
  readonly random: Random;
}

function failure(path: readonly string[], when: string, error: unknown): Error {
  if (error instanceof CrashFailure) return error;
  return new CrashFailure(path, when, error);
}

class CrashFailure extends Error {
  constructor(path: readonly string[], when: string, cause: unknown) {
    const said = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
    super(`${path.join("/")}: ${when}: ${said}\nAgain: STREAMDISK_SEED=${seed} STREAMDISK_CRASH='${path.join("/")}'`);
  }
}
