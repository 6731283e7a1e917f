/**
 * Machines that are made from an image, as a whole: the source is offered, the disk made over it, the machine started, the stream begun.
 * All of it or nothing.
 *
 * A deployment is written down before its first step, with the places of all its parts, and after each. Each step can be undone, whether it
 * was done, half done or never begun; what is not there is no error. So whatever fails, all steps are undone, the last first; a daemon
 * that was killed in the middle of it does the same when it comes back; and to remove a deployment is to undo its steps.
 *
 * Acts upon one deployment come one at a time.
 */
import { StreamdiskError } from "../errors/index.ts";
import type { DeploymentRecord, Store } from "../jobs/index.ts";
import type { EventHub } from "./event-hub.ts";
import { Turns } from "./turns.ts";

export interface HeldDeployment {
  record: DeploymentRecord;
  readonly turns: Turns;
}

/** A part of a deployment. */
export interface DeploymentStep {
  /** "source", "disk", "machine", "stream". */
  readonly name: string;
  make(deployment: DeploymentRecord): Promise<void>;
  /** Takes away what there is of it. @param force does not wait for the guest */
  undo(deployment: DeploymentRecord, force: boolean): Promise<void>;
}

export interface DeploymentsParts {
  readonly store: Pick<Store, "putDeployment" | "deleteDeployment">;
  readonly events: Pick<EventHub, "tell">;
  /** Those of one deployment, in order. */
  readonly stepsOf: (deployment: DeploymentRecord) => readonly DeploymentStep[];
  /** Throws when others would lose what they are read from with its overlay. */
  readonly refuseDeleting: (deployment: DeploymentRecord) => Promise<void>;
}

export class Deployments {
  readonly #parts: DeploymentsParts;
  readonly #byName = new Map<string, HeldDeployment>();

  constructor(parts: DeploymentsParts) {
    this.#parts = parts;
  }

  /** In the order of their names. */
  all(): HeldDeployment[] {
    return [...this.#byName.values()].sort((a, b) => (a.record.name < b.record.name ? -1 : 1));
  }

  /** @throws {StreamdiskError} `exists` */
  refuseTaken(name: string): void {
    if (!this.#byName.has(name)) return;
    const message = `There is a deployment '${name}' already: undeploy it, or take another name`;
    throw new StreamdiskError("exists", message, { node: name });
  }

  /** @throws {StreamdiskError} `not-found` */
  demand(name: string): HeldDeployment {
    const held = this.#byName.get(name);
    if (held !== undefined) return held;
    const message = `There is no deployment '${name}': 'streamdisk deployments' lists them`;
    throw new StreamdiskError("not-found", message, { node: name });
  }

  /** Whether one needs an export, now or when it is complete. @param leaving one that does not any more */
  needs(source: string, leaving?: string): boolean {
    return this.all().some(({ record }) => record.source === source && !record.hydrated && record.name !== leaving);
  }

  /** All have their names from now on; `finish` does what was begun. */
  load(records: readonly DeploymentRecord[]): void {
    for (const record of records) this.#byName.set(record.name, { record, turns: new Turns() });
  }

  /** Undoes what was being made, and goes on with what was being removed; what fails is told of, and tried with the next start. */
  async finish(): Promise<void> {
    const begun = this.all().filter(({ record }) => record.state !== "ready");
    await Promise.all(
      begun.map((held) =>
        held.turns
          .run(async () => {
            const { name, state } = held.record;
            // Nobody has used a machine that was not told of yet.
            await this.#undo(held, state === "making");
            const why =
              state === "making"
                ? "was being deployed when the daemon ended, and was undone: deploy it again"
                : "was removed";
            await this.#parts.events.tell("undeployed", `'${name}' ${why}`);
          })
          .catch((error) => this.#tellStuck(held, error)),
      ),
    );
  }

  /**
   * Makes one; all is undone if anything of it fails.
   *
   * @param record of a name that is free
   * @throws {StreamdiskError} what the step that failed throws
   */
  async make(record: DeploymentRecord): Promise<HeldDeployment> {
    const { name } = record;
    this.refuseTaken(name);
    const held = { record, turns: new Turns() };
    this.#byName.set(name, held);
    return held.turns.run(async () => {
      try {
        await this.#put(held, {});
        for (const step of this.#parts.stepsOf(record)) await this.#do(held, step);
        await this.#put(held, { state: "ready" });
      } catch (error) {
        const undone = this.#undo(held, true).then(() => true);
        const left = !(await undone.catch((problem) => this.#tellStuck(held, problem)));
        throw failure(name, left, error);
      }
      await this.#parts.events.tell(
        "deployed",
        `'${name}' was deployed from an image, and its disk is filled meanwhile`,
      );
      return held;
    });
  }

  async #do(held: HeldDeployment, step: DeploymentStep): Promise<void> {
    const began = performance.now();
    await step.make(held.record);
    const done = { name: step.name, ms: Math.round(performance.now() - began) };
    await this.#put(held, { steps: [...held.record.steps, done] });
  }

  /**
   * @param order of which `keepDisk` says that its overlay stays, as it does too when an earlier removal that was stuck was to keep it;
   *   `force` does not wait for the guest to power off
   * @throws {StreamdiskError} `refused`, with nothing done, when its overlay would go and others need it; what a step throws
   */
  remove(name: string, order: { readonly keepDisk: boolean; readonly force: boolean }): Promise<void> {
    const { force } = order;
    const held = this.demand(name);
    return held.turns.run(async () => {
      if (this.#byName.get(name) !== held) return;
      const { state, keepDisk: wasToStay = false } = held.record;
      const keepDisk = order.keepDisk || (state === "removing" && wasToStay);
      if (!keepDisk) await this.#parts.refuseDeleting(held.record);
      await this.#put(held, { state: "removing", keepDisk });
      await this.#undo(held, force);
      const disk = keepDisk ? `'${held.record.overlay}' stays` : `'${held.record.overlay}' was deleted`;
      await this.#parts.events.tell("undeployed", `'${name}' was removed: its image ${disk}`);
    });
  }

  /** Its disk stands alone: it is remembered that it needs its source no more. */
  hydrated(held: HeldDeployment): Promise<void> {
    return held.turns.run(async () => {
      if (this.#byName.get(held.record.name) !== held || held.record.hydrated) return;
      await this.#put(held, { hydrated: true });
    });
  }

  async #undo(held: HeldDeployment, force: boolean): Promise<void> {
    if (held.record.state === "making") held.record = { ...held.record, state: "removing" };
    for (const step of [...this.#parts.stepsOf(held.record)].reverse()) await step.undo(held.record, force);
    await this.#parts.store.deleteDeployment(held.record.name);
    this.#byName.delete(held.record.name);
  }

  async #put(held: HeldDeployment, change: Partial<DeploymentRecord>): Promise<void> {
    held.record = { ...held.record, ...change };
    await this.#parts.store.putDeployment(held.record);
  }

  async #tellStuck({ record: { name, keepDisk } }: HeldDeployment, error: unknown): Promise<void> {
    const why = error instanceof Error ? error.message : String(error);
    const command = `streamdisk undeploy ${name}${keepDisk ? " --keep-disk" : ""}`;
    const next = `it is tried again with the next start of the daemon, and by '${command}'`;
    await this.#parts.events.tell(
      "undeploy-failed",
      `What there is of '${name}' could not be taken away: ${why}; ${next}`,
    );
  }
}

function failure(name: string, left: boolean, error: unknown): StreamdiskError {
  const { code = "io", context = {} } = error instanceof StreamdiskError ? error : {};
  const why = error instanceof Error ? error.message : String(error);
  const what = left ? `what there is of it is taken away by 'streamdisk undeploy ${name}'` : "nothing of it is left";
  return new StreamdiskError(code, `'${name}' could not be deployed, and ${what}: ${why}`, context, error);
}
