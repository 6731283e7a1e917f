/** The calls of the API that are about deployments, and what becomes of them meanwhile. */
import { randomUUID } from "node:crypto";
import type { CheckedInput, Deployment, RouteName, RouteResult } from "../api/index.ts";
import { DEFAULT_POLICY } from "../engine/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { DeployedMachine, DeploymentRecord, Store } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import { DeployedMachines, type DeployedMachinesParts } from "./deployed-machine.ts";
import { DeploymentSteps, deployedDisk, refuseThere } from "./deployment-steps.ts";
import { Deployments, type HeldDeployment } from "./deployments.ts";
import type { Disks } from "./disks.ts";
import type { EventHub } from "./event-hub.ts";
import type { Exports } from "./exports.ts";
import { findAbove } from "./image-backing.ts";
import { ImageExports } from "./image-exports.ts";
import type { Log } from "./log.ts";
import { policyOf } from "./new-disk.ts";
import type { StreamCalls } from "./stream-calls.ts";

type Input<N extends RouteName> = CheckedInput<N>;
type Result<N extends RouteName> = Promise<RouteResult<N>>;

export interface DeploymentCallsParts extends DeployedMachinesParts {
  readonly store: Store;
  readonly events: EventHub;
  readonly disks: Disks;
  readonly exports: Exports;
  readonly streams: StreamCalls;
  readonly allowed: AllowedPaths;
  readonly options: DaemonOptions;
  readonly log: Log;
}

export class DeploymentCalls {
  readonly #parts: DeploymentCallsParts;
  readonly #images: ImageExports;
  readonly #machines: DeployedMachines;
  readonly #steps: DeploymentSteps;
  readonly #deployments: Deployments;

  constructor(parts: DeploymentCallsParts) {
    const { store, events, disks, exports, streams, allowed, options } = parts;
    this.#parts = parts;
    this.#machines = new DeployedMachines(parts);
    this.#images = new ImageExports(exports);
    const isNeeded = (source: string, leaving: string): boolean => this.#deployments.needs(source, leaving);
    const [images, machines] = [this.#images, this.#machines];
    const refuseDeleting = (deployment: DeploymentRecord) => this.#refuseDeleting(deployment);
    const made = { images, disks, machines, streams };
    this.#steps = new DeploymentSteps({ ...made, allowed, options, isNeeded, refuseDeleting });
    const stepsOf = (deployment: DeploymentRecord) => this.#steps.of(deployment);
    this.#deployments = new Deployments({ store, events, stepsOf, refuseDeleting });
  }

  /** They have their names from now on. */
  load(records: readonly DeploymentRecord[]): void {
    this.#deployments.load(records);
  }

  /** Undoes and finishes what was begun when the daemon ended. To be called when disks and exports are there. */
  async restore(): Promise<void> {
    await this.#deployments.finish();
    for (const held of this.#deployments.all()) {
      if (!held.record.hydrated && (await this.#isHydrated(held))) await this.#deployments.hydrated(held);
    }
    // A deployment whose record is lost may need one.
    if ((this.#parts.options.damage ?? []).length > 0) return;
    await this.#images.sweep((source) => this.#deployments.needs(source));
  }

  /** Its stream may have ended right before the daemon did. */
  async #isHydrated({ record }: HeldDeployment): Promise<boolean> {
    const { disks, streams } = this.#parts;
    if (record.owner === "qemu") {
      const id = this.#steps.diskId(record);
      return id !== undefined && (await streams.of(id))?.state === "completed";
    }
    const { served } = disks.find(deployedDisk(record))?.host ?? {};
    return (await served?.info().catch(() => undefined))?.hydrated ?? false;
  }

  /** That one which has a name or an image for its disk. */
  reserved(disk: string, image: string): DeploymentRecord | undefined {
    const all = this.#deployments.all().map(({ record }) => record);
    return all.find((record) => deployedDisk(record) === disk || record.overlay === image);
  }

  /** @param id of a disk, in which nothing is missing any more */
  onHydrated(id: string): void {
    const held = this.#deployments.all().find(({ record }) => this.#steps.diskId(record) === id);
    if (held === undefined) return;
    const { source } = held.record;
    const done = this.#deployments.hydrated(held).then(() => {
      return this.#images.release(source, () => this.#deployments.needs(source));
    });
    done.catch((error: unknown) => this.#parts.log.error({ err: error }, "A deployment could not leave its source"));
  }

  /** @throws {StreamdiskError} `refused` for an export from which a deployment is filled */
  refuseExport(name: string): void {
    const { record } = this.#deployments.all().find(({ record }) => record.source === name && !record.hydrated) ?? {};
    if (record === undefined) return;
    const message = `'${record.name}' is filled from the export '${name}': it goes by itself when that is complete, or undeployed`;
    throw new StreamdiskError("refused", message, { node: name });
  }

  /** @throws {StreamdiskError} `refused` for the machine of a deployment */
  refuseDomain(name: string): void {
    if (!this.#deployments.all().some(({ record }) => record.name === name && this.#machines.has(record))) return;
    const message = `'${name}' is the machine of a deployment: remove both with 'streamdisk undeploy ${name}'`;
    throw new StreamdiskError("refused", message, { node: name });
  }

  /** @throws {StreamdiskError} `refused` for the disk of a deployment */
  refuseDisk(name: string): void {
    const { record } = this.#deployments.all().find(({ record }) => deployedDisk(record) === name) ?? {};
    if (record === undefined) return;
    const message = `'${name}' is the disk of the deployment '${record.name}': remove it with 'streamdisk undeploy ${record.name}'`;
    throw new StreamdiskError("refused", message, { node: name });
  }

  /** @throws {StreamdiskError} `refused` when others are read from the image that would go with a deployment */
  async #refuseDeleting({ name, overlay, hydrated }: DeploymentRecord): Promise<void> {
    const above = await this.#above(overlay);
    if (above === undefined) return;
    // To keep one that is not complete its link is changed, and nobody may have it open for that.
    const other = hydrated ? ", or let the image stay (--keep-disk)" : "";
    const message = `The image '${overlay}' of '${name}' lies below ${above}: remove or stream that first${other}`;
    throw new StreamdiskError("refused", message, { node: name });
  }

  /** Who is read from an image, in words. */
  async #above(image: string): Promise<string | undefined> {
    const { disks, exports, domains } = this.#parts;
    const made = this.#deployments.all().find(({ record }) => record.image === image && !record.hydrated);
    if (made !== undefined) return `the deployment '${made.record.name}'`;
    const disk = await findAbove(image, disks.all());
    if (disk !== undefined) return `the disk '${disk.record.name}'`;
    const offered = exports.all().find(({ record }) => record.settings.image === image);
    const offer = offered ?? (await findAbove(image, exports.all()));
    if (offer !== undefined) return `the export '${offer.record.name}'`;
    const machine = domains.all().find(({ record }) => record.needs?.includes(image));
    return machine && `a disk of the machine '${machine.record.name}'`;
  }

  async list(): Result<"listDeployments"> {
    return { deployments: await Promise.all(this.#deployments.all().map((held) => this.#view(held))) };
  }

  async show({ params }: Input<"getDeployment">): Result<"getDeployment"> {
    return this.#view(this.#deployments.demand(params.deployment));
  }

  async deploy({ body }: Input<"deploy">): Result<"deploy"> {
    const { name, imageFormat, format, size, speed, onSourceError, exportOnly } = body;
    const owner = body.owner ?? (exportOnly ? "engine" : "qemu");
    const { allowed, disks, options } = this.#parts;
    const machine = machineOf({ ...body, owner });
    const order = {
      ...{ name, owner, format },
      image: await allowed.source(body.image),
      ...(imageFormat !== undefined && { imageFormat }),
      onSourceError: onSourceError === undefined ? DEFAULT_POLICY : policyOf(onSourceError),
    };
    this.#deployments.refuseTaken(name);
    const overlay = await allowed.file(`${deployedDisk(order).replace(":", "-")}.${format}`);
    await refuseThere(name, overlay);
    // From here until it has its name nothing comes in between.
    this.#deployments.refuseTaken(name);
    disks.refuseTaken(deployedDisk(order), overlay);
    if (machine !== undefined) this.#machines.refuseTaken(name);
    const held = await this.#deployments.make({
      ...order,
      ...{ id: `${name}@${randomUUID()}`, state: "making", overlay, source: this.#images.nameFor(order) },
      ...(size !== undefined && { size }),
      ...(machine !== undefined && { machine }),
      ...((speed ?? options.speed) !== undefined && { speed: speed ?? options.speed }),
      ...{ hydrated: false, steps: [], createdAt: Date.now() },
    });
    return this.#view(held);
  }

  async undeploy({ params, query }: Input<"undeploy">): Result<"undeploy"> {
    await this.#deployments.remove(params.deployment, query);
  }

  async #view({ record }: HeldDeployment): Promise<Deployment> {
    const { name, state, source, owner, overlay, format, hydrated, steps, createdAt } = record;
    const disk = deployedDisk(record);
    const there = this.#parts.disks.find(disk);
    const id = this.#steps.diskId(record);
    const stream = id === undefined ? undefined : await this.#parts.streams.of(id);
    const served = there?.host.served;
    return {
      ...{ name, state, image: shownReference(record.image), source, owner, disk, overlay, format, hydrated },
      ...(state === "removing" && record.keepDisk && { keepDisk: true as const }),
      ...(record.machine !== undefined && { domain: name }),
      ...(stream !== undefined && { stream }),
      ...(served !== undefined && { uri: served.uri, qemuArgs: served.qemuArgs() }),
      ...{ steps: [...steps], createdAt },
    };
  }
}

type Order = Input<"deploy">["body"] & Pick<DeploymentRecord, "owner">;

/** @throws {StreamdiskError} `invalid-argument` for an order that makes no sense */
function machineOf({ name, exportOnly, owner, machine }: Order): DeployedMachine | undefined {
  if (!exportOnly) return machine ?? {};
  if (owner === "engine" && machine === undefined) return undefined;
  const wrong =
    machine === undefined ? "the owner of its disk is the daemon (engine)" : "it has no machine to describe";
  throw new StreamdiskError("invalid-argument", `'${name}' is to be exported only: ${wrong}`, { node: name });
}
