/**
 * The exports from which deployments are filled: one for all that are made from an image, read in the same way, with the same policy for
 * its death. It is there from before the first of them until the last needs it no more, over restarts, and has a cache, so that many that
 * are filled at the same time cost the image's server little more than one.
 *
 * A machine's QEMU has no policy of its own: the export holds its requests. A disk of the daemon has one, and is told that the source is lost.
 */
import { createHash } from "node:crypto";
import { basename } from "node:path";
import type { SourcePolicy } from "../filters/index.ts";
import type { FormatName } from "../formats/index.ts";
import type { DeploymentRecord } from "../jobs/index.ts";
import { type Exports, uriOf } from "./exports.ts";
import { Turns } from "./turns.ts";

const CACHE_BYTES = 64 * 1024 * 1024;
const MOST_OF_NAME = 24;
/** What a client that waits by itself is told at once. */
const RELAYED: SourcePolicy = { holdMs: 0, afterwards: "error" };

type Wanted = Pick<DeploymentRecord, "image" | "imageFormat" | "owner" | "onSourceError">;

/** An image that is offered. */
export interface ImageExport {
  readonly uri: string;
  /** Virtual size in bytes. */
  readonly length: number;
  readonly format: FormatName;
}

export class ImageExports {
  readonly #exports: Exports;
  /** One comes and goes at a time: the last may leave while another arrives. */
  readonly #turns = new Turns();

  constructor(exports: Exports) {
    this.#exports = exports;
  }

  /** What the export for a deployment is called: after its image, and by all that must be the same for those who share it. */
  nameFor({ image, imageFormat, owner, onSourceError }: Wanted): string {
    const policy = owner === "engine" ? "engine" : `${onSourceError.holdMs} ${onSourceError.afterwards}`;
    const all = createHash("sha256").update(JSON.stringify([image, imageFormat ?? "", policy]));
    const path = image.replace(/^[A-Za-z][A-Za-z0-9+.-]*:\/\/[^/?#]*/, "").replace(/[?#].*$/s, "");
    const word = basename(path)
      .replace(/[^A-Za-z0-9._-]+/g, "-")
      .slice(0, MOST_OF_NAME);
    return ["image", ...(word === "" ? [] : [word]), all.digest("hex").slice(0, 8)].join("-");
  }

  uri(name: string): string {
    return uriOf(this.#exports.demand(name).record);
  }

  /** Offers the image of a deployment, unless it is offered already. @throws {StreamdiskError} as opening the image may */
  offer(deployment: DeploymentRecord): Promise<void> {
    const { source: name, image, imageFormat: format, owner, onSourceError } = deployment;
    return this.#turns.run(async () => {
      if (this.#exports.has(name)) await this.#exports.open(name);
      else {
        const order = {
          name,
          image,
          readOnly: true,
          listen: {},
          cache: CACHE_BYTES,
          ...(format !== undefined && { format }),
        };
        const policy = owner === "engine" ? RELAYED : onSourceError;
        await this.#exports.add(order, { forDeployments: owner, onSourceError: policy });
      }
    });
  }

  /** @throws {StreamdiskError} when it cannot be opened now */
  async info(name: string): Promise<ImageExport> {
    const { length, format } = await (await this.#exports.open(name)).info();
    return { uri: this.uri(name), length, format };
  }

  /** Offers it no more, if nobody needs it. */
  release(name: string, isNeeded: () => boolean): Promise<void> {
    return this.#turns.run(async () => {
      if (this.#exports.has(name) && !isNeeded()) await this.#exports.remove(name);
    });
  }

  /** The same of all that were made for deployments. */
  async sweep(isNeeded: (name: string) => boolean): Promise<void> {
    const own = this.#exports.all().filter(({ record }) => record.forDeployments !== undefined);
    for (const { record } of own) await this.release(record.name, () => isNeeded(record.name));
  }
}
