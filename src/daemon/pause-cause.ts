/** Why a machine that QEMU has stopped for an error of a disk has stopped, and what is to be done about it. */
import type { GuestDrive } from "../domain/index.ts";
import type { ServedSource } from "./served-sources.ts";

/** A drive of a guest, and what the daemon serves of what lies below it. */
export interface DriveNow extends GuestDrive {
  readonly served: readonly ServedSource[];
}

/** What QEMU said of the request that has stopped it (`BLOCK_IO_ERROR`). */
export interface BlockFailure {
  readonly node: string | undefined;
  readonly device: string;
  readonly reason: string;
}

export interface PauseCause {
  readonly code: "source-lost" | "changed" | "no-space" | "io";
  /** Name of the drive. */
  readonly disk: string | undefined;
  /** Path or URI of the source. */
  readonly source: string | undefined;
  /** What is wrong, without a stop at its end. */
  readonly what: string;
  /**
   * Who is waited for: `source` until one of the daemon's is back, `elsewhere` until one that QEMU has itself answers, `nobody` where nothing
   * is known to be in the way, `person`.
   */
  readonly awaits: "source" | "elsewhere" | "nobody" | "person";
}

/**
 * @param drives of the machine, as they are now
 * @param failure the last that was heard of
 * @param lately which source has been lost since the machine has stopped, whether or not it is back
 */
export function causeOf(
  drives: readonly DriveNow[],
  failure: BlockFailure | undefined,
  lately: ServedSource | undefined,
): PauseCause {
  const failed = failedDrives(drives, failure);
  const full = failed.find(({ status }) => status === "nospace");
  if (full !== undefined) {
    const what = `there is no room left where the image of its disk ${full.name} lies ('${full.image}')`;
    return { code: "no-space", disk: full.name, source: undefined, what, awaits: "person" };
  }
  const pairs = failed.flatMap((drive) => drive.served.map((served) => ({ drive, served })));
  for (const { drive, served } of pairs) {
    const wrong = wrongWith(served);
    if (wrong !== undefined) {
      return { ...wrong, disk: drive.name, source: served.from, awaits: "source" };
    }
  }
  const back = pairs.find(({ served }) => served.host === lately?.host);
  if (back !== undefined) {
    const { drive, served } = back;
    const what = `its disk ${drive.name} needed '${served.from}', which was lost and is back`;
    return { code: "source-lost", disk: drive.name, source: served.from, what, awaits: "nobody" };
  }
  const [drive] = failed;
  const why = failure === undefined ? "" : ` (${failure.reason})`;
  const what = `a request of its disk ${drive?.name ?? "(unknown)"} failed${why}`;
  const elsewhere = drive?.sources.find((source) => /^(nbd|https?)[s+:]/.test(source));
  const ours = pairs[0]?.served.from;
  const awaits = ours !== undefined ? "nobody" : elsewhere === undefined ? "person" : "elsewhere";
  return { code: "io", disk: drive?.name, source: ours ?? elsewhere, what, awaits };
}

/** Those that QEMU says it of, or of which it was heard; where neither is known, all that may have been it. */
function failedDrives(drives: readonly DriveNow[], failure: BlockFailure | undefined): readonly DriveNow[] {
  const failed = drives.filter(({ status }) => status !== "ok");
  if (failed.length > 0) return failed;
  const { node, device = "" } = failure ?? {};
  const heard = drives.filter(({ nodes, name }) => (node !== undefined && nodes.includes(node)) || name === device);
  return heard.length > 0 ? heard : drives;
}

/** What is wrong with a source of the daemon's, if anything is. */
function wrongWith({ name, host, from }: ServedSource): Pick<PauseCause, "code" | "what"> | undefined {
  if (host.served === undefined) {
    const why = host.error === undefined ? "" : `: ${host.error.message}`;
    return { code: "source-lost", what: `the ${name} of this daemon is not served at the moment${why}` };
  }
  const { state, message = "" } = host.source ?? {};
  if (state === "lost") return { code: "source-lost", what: `its source '${from}' is lost: ${message}` };
  if (state === "changed") return { code: "changed", what: `its source '${from}' is not what it was: ${message}` };
  return undefined;
}

/** Why a machine may not be paused when a read of a disk fails; undefined when it is. */
export function unpausable(name: string, { stopsOnErrors }: DriveNow): string | undefined {
  if (stopsOnErrors === "yes") return undefined;
  if (stopsOnErrors === "no") {
    return `The device of '${name}' was started without rerror=stop: its machine can't be paused when its source is lost, and its guest would get errors. Start it with rerror=stop,werror=stop, or take hold, or an error`;
  }
  return `Whether the machine is paused when a read of '${name}' fails can't be seen: its drive was made by -drive, which QEMU doesn't tell of. It needs rerror=stop,werror=stop there`;
}
