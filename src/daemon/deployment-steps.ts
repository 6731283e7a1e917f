/** The steps of a deployment as they are really done. What each makes is found again by what the record says, so it can be undone at any time. */
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { createImage, rebaseImage, removeHalfMade } from "../image/index.ts";
import type { DeploymentRecord } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";
import type { AllowedPaths } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";
import { DEPLOYED_TARGET, type DeployedMachines } from "./deployed-machine.ts";
import type { DeploymentStep } from "./deployments.ts";
import { isThere, syncDirectory } from "./disk-files.ts";
import type { Disks } from "./disks.ts";
import { backingOf } from "./image-backing.ts";
import type { ImageExport, ImageExports } from "./image-exports.ts";
import type { StreamCalls } from "./stream-calls.ts";
import { policyView } from "./views.ts";

export interface DeploymentStepsParts {
  readonly images: ImageExports;
  readonly disks: Disks;
  readonly machines: DeployedMachines;
  readonly streams: StreamCalls;
  readonly allowed: AllowedPaths;
  readonly options: DaemonOptions;
  /** Whether others than one deployment need an export. */
  readonly isNeeded: (source: string, leaving: string) => boolean;
  /** Throws when others would lose what they are read from with an overlay. */
  readonly refuseDeleting: (deployment: DeploymentRecord) => Promise<void>;
}

/** What the disk of a deployment is called where streams are ordered: a disk of the daemon, or the machine's own. */
export function deployedDisk({ name, owner }: Pick<DeploymentRecord, "name" | "owner">): string {
  return `${name}${owner === "engine" ? "-" : ":"}${DEPLOYED_TARGET}`;
}

export class DeploymentSteps {
  readonly #parts: DeploymentStepsParts;

  constructor(parts: DeploymentStepsParts) {
    this.#parts = parts;
  }

  of({ machine }: DeploymentRecord): readonly DeploymentStep[] {
    return [this.#source, this.#disk, ...(machine === undefined ? [] : [this.#machine]), this.#stream];
  }

  /** By which the jobs of a deployment's own disk are remembered; undefined while that is not there, whoever else has its name. */
  diskId(deployment: DeploymentRecord): string | undefined {
    const { disks, machines } = this.#parts;
    if (deployment.owner === "qemu") return machines.diskId(deployment);
    const record = disks.find(deployedDisk(deployment))?.record;
    return record?.deployment === deployment.id ? record.id : undefined;
  }

  readonly #source: DeploymentStep = {
    name: "source",
    make: (deployment) => this.#parts.images.offer(deployment),
    undo: ({ source, name }) => this.#parts.images.release(source, () => this.#parts.isNeeded(source, name)),
  };

  readonly #disk: DeploymentStep = {
    name: "disk",
    make: async (deployment) => {
      const source = await this.#parts.images.info(deployment.source);
      refuseSmaller(deployment, source);
      if (deployment.owner === "engine") await this.#makeDisk(deployment, source);
      else await this.#makeOverlay(deployment, source);
    },
    undo: async (deployment) => {
      const { disks, refuseDeleting } = this.#parts;
      const name = deployedDisk(deployment);
      const { overlay, keepDisk, id } = deployment;
      const isOurs = await this.#isOurs(deployment);
      // Somebody may have come since it was ordered: a guest may take its time, and what is stuck is tried again.
      if (isOurs && !keepDisk) await refuseDeleting(deployment);
      if (disks.find(name)?.record.deployment === id) await disks.delete(name, !keepDisk);
      if (!keepDisk) await removeHalfMade(overlay);
      if (!isOurs) return;
      if (keepDisk) await this.#linkToImage(deployment);
      else await removeFile(overlay);
    },
  };

  readonly #machine: DeploymentStep = {
    name: "machine",
    make: async (deployment) => {
      const { disks, machines } = this.#parts;
      const disk = deployment.owner === "engine" ? disks.demand(deployedDisk(deployment)) : undefined;
      await machines.start(deployment, disk?.host.served?.uri);
    },
    undo: (deployment, force) => this.#parts.machines.remove(deployment, force),
  };

  readonly #stream: DeploymentStep = {
    name: "stream",
    make: async (deployment) => {
      const { speed, source } = deployment;
      const body = { priority: 0, ...(speed !== undefined && { speed }) };
      await this.#parts.streams.start({ params: { disk: deployedDisk(deployment) }, query: {}, body }, source);
    },
    undo: async (deployment) => {
      // Its name may be another's by now: that of a machine is not kept for one that is not there yet, or no more.
      if (this.diskId(deployment) === undefined) return;
      const input = { params: { disk: deployedDisk(deployment) }, query: {}, body: {} };
      await this.#parts.streams.cancel(input).catch((error) => {
        if (!(error instanceof StreamdiskError) || error.code !== "not-found") throw error;
      });
    },
  };

  /**
   * Whether the overlay is what the deployment has made: another program may have been there before. A daemon that died right after it has
   * not written down that it was made; it is known by what it lies over then.
   */
  async #isOurs({ steps, source, overlay, format }: DeploymentRecord): Promise<boolean> {
    if (steps.some(({ name }) => name === this.#disk.name)) return true;
    try {
      return (await backingOf(overlay, format)) === this.#parts.images.uri(source);
    } catch (error) {
      if (error instanceof StreamdiskError && error.code === "io") throw error;
      return false;
    }
  }

  async #makeDisk(deployment: DeploymentRecord, { uri }: ImageExport): Promise<void> {
    const { id, overlay, format, size, onSourceError } = deployment;
    const order = {
      ...{ name: deployedDisk(deployment), image: overlay, format, backing: uri, backingFormat: "raw" as const },
      ...{ adopt: false, readOnly: false, copyOnRead: true },
      onSourceError: policyView(onSourceError),
      ...(size !== undefined && { size }),
    };
    await this.#parts.disks.create(order, id);
  }

  async #makeOverlay({ name, overlay, format, size }: DeploymentRecord, { uri }: ImageExport): Promise<void> {
    await refuseThere(name, overlay);
    await createImage(overlay, { format, backing: uri, backingFormat: "raw", ...(size !== undefined && { size }) });
  }

  /** A disk that stays without its deployment lies over the image itself from then on, since the export goes. */
  async #linkToImage({ source, overlay, format, image, hydrated }: DeploymentRecord): Promise<void> {
    const { images, allowed, options } = this.#parts;
    if (hydrated || !(await isThere(overlay))) return;
    // It was linked before, by a removal that was not finished, or its stream has ended: the export may have gone by then.
    const below = await backingOf(overlay, format);
    if (below === undefined || below === image) return;
    const { format: backingFormat } = await images.info(source);
    const { sourceOptions } = options;
    const from = { format, allowBacking: allowed.backing, sourceOptions };
    await rebaseImage(overlay, { ...from, backing: image, backingFormat });
  }
}

/** @throws {StreamdiskError} `exists` for a place that has something already */
export async function refuseThere(name: string, overlay: string): Promise<void> {
  if (!(await isThere(overlay))) return;
  const message = `'${overlay}' is there already: remove it, or take another name than '${name}'`;
  throw new StreamdiskError("exists", message, { node: overlay });
}

function refuseSmaller({ name, size, image }: DeploymentRecord, { length }: ImageExport): void {
  if (size === undefined || size >= length) return;
  const message = `The disk of '${name}' is to have ${size} bytes, and '${shownReference(image)}' has ${length}: a disk may be larger than its image only`;
  throw new StreamdiskError("invalid-argument", message, { node: name });
}

async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
    await syncDirectory(dirname(path));
  } catch (error) {
    throw wrapSystemError(error, path, "delete");
  }
}
