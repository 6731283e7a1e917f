/**
 * A stream target over an overlay that a running QEMU owns. What is missing is what `qemu:allocation-depth` puts anywhere but in the
 * first layer; `NBD_CMD_CACHE` on the read-only export of the overlay has QEMU copy it up, atomically against the guest, with no
 * data passing here. A hole of the base is missing too, and becomes a zero cluster.
 *
 * QEMU keeps what it has mapped in memory until a flush: here a checkpoint is one.
 *
 * An export follows what others do to the graph: after a snapshot it stands over the new overlay, and filling that would be
 * wrong. QEMU tells of no snapshot, so the place is looked at anew before each walk, each flush and the end.
 */
import { StreamdiskError } from "../../errors/index.ts";
import { type Populated, type StreamExtent, type StreamTarget, wholeGrains } from "../../stream/index.ts";
import type { DiskDescription } from "../description.ts";
import type { QmpClient } from "../qmp/client.ts";
import { dropLeftJobs, finishJob, withJob } from "./drop-backing.ts";
import { isMarked } from "./fill-marker.ts";
import type { FillExport } from "./fill-server.ts";
import { locateOverlay, type Overlay, type Purpose, queryBlockLayer } from "./locate-overlay.ts";
import { endWithoutLink, ownSources, removeNodes } from "./own-sources.ts";

export interface QemuTargetOptions {
  readonly qmp: QmpClient;
  readonly domain: string;
  readonly disk: DiskDescription;
  readonly overlay: Overlay;
  readonly fill: FillExport;
  readonly purpose: Purpose;
}

export class QemuTarget implements StreamTarget {
  readonly #options: QemuTargetOptions;

  constructor(options: QemuTargetOptions) {
    this.#options = options;
  }

  get name(): string {
    return this.#options.overlay.name;
  }

  get length(): number {
    return this.#options.overlay.length;
  }

  get grain(): number {
    return this.#options.overlay.clusterSize;
  }

  async *extents(offset: number, length: number): AsyncGenerator<StreamExtent, void, undefined> {
    // The last act of the round before may have failed and left its job, which would be in the way.
    if (this.#options.purpose === "change") await dropLeftJobs(this.#options.qmp);
    await this.#lookAgain();
    yield* wholeGrains(this.#layers(offset, length), this.grain, offset + length);
  }

  async *#layers(offset: number, length: number): AsyncGenerator<StreamExtent, void, undefined> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const runs = (await this.#do(() => this.#options.fill.node.allocationDepths(at, end - at))) ?? [];
      for (const run of runs) {
        yield { offset: run.offset, length: run.length, kind: run.depth === 1 ? "local" : "fetch" };
        at = run.offset + run.length;
      }
    }
  }

  async populate(offset: number, length: number, signal?: AbortSignal): Promise<Populated> {
    await this.#do(() => this.#options.fill.node.cache(offset, length, signal));
    return { data: length, zero: 0 };
  }

  async clear(offset: number, length: number): Promise<Populated> {
    return this.populate(offset, length);
  }

  async checkpoint(): Promise<void> {
    await this.flush();
  }

  async flush(): Promise<void> {
    await this.#lookAgain();
    await this.#flushNode();
  }

  async finish(): Promise<void> {
    const { qmp, overlay } = this.#options;
    await this.#lookAgain();
    if (overlay.backingNode === undefined) return endWithoutLink(qmp, overlay);
    const sources = await ownSources(qmp, overlay);
    await withJob(qmp, async (id) => {
      const args = { "job-id": id, device: overlay.node, "auto-finalize": false, "auto-dismiss": false } as const;
      await qmp.execute("block-stream", args);
      await finishJob(qmp, this.name, { id, copies: false, flush: () => this.#flushNode() });
    });
    await removeNodes(qmp, sources);
  }

  #flushNode(): Promise<void> {
    return this.#do(() => this.#options.fill.node.flushServer());
  }

  /** @throws {StreamdiskError} `changed` when the overlay is no longer what the guest writes to */
  async #lookAgain(): Promise<void> {
    const { qmp, domain, disk, overlay, purpose } = this.#options;
    const now = locateOverlay(await queryBlockLayer(qmp), domain, disk, purpose);
    if (now.node === overlay.node) return;
    const message =
      `'${this.name}' is not what it was: QEMU writes to another image now, '${now.file}'. Somebody has taken a snapshot or ` +
      "changed the drive: start the stream anew";
    throw new StreamdiskError("changed", message, { node: this.name });
  }

  /** Does something over the export; an error says what it means for a disk of QEMU's. */
  async #do<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw await this.#explained(error);
    }
  }

  async #explained(error: unknown): Promise<unknown> {
    if (!(error instanceof StreamdiskError)) return error;
    const { qmp, fill } = this.#options;
    if (error.code === "io") return new StreamdiskError("source-lost", error.message, error.context, error);
    if (error.code !== "source-lost") return error;
    // The link is lost: either QEMU has ended, or somebody has taken the export away.
    try {
      const exports = await qmp.execute("query-block-exports", {});
      if (exports.some(({ id }) => id === fill.id)) return error;
      if (!(await isMarked(qmp))) return this.#hasEnded(error);
      const message = `Somebody has taken the export away by which '${this.name}' was filled`;
      return new StreamdiskError("refused", message, { node: this.name }, error);
    } catch {
      return this.#hasEnded(error);
    }
  }

  /** Or it runs again already, without anything of ours. */
  #hasEnded(error: unknown): StreamdiskError {
    const reason = this.#options.qmp.shutdownReason;
    const message = `QEMU of '${this.name}' has ended${reason === undefined ? "" : ` (${reason})`}`;
    return new StreamdiskError("shutdown", message, { node: this.name }, error);
  }
}
