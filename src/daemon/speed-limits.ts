/**
 * How fast all streams together may be, and those from one source: what the settings say, and what was said through the API since, which
 * counts for more and is remembered.
 *
 * A limit is for a *place*: `all` streams of this daemon, `each` source by itself, or a path or the beginning of a URI with all that
 * lies below it. Of several such places the longest counts for a source, and whatever lies below it shares its limit.
 */
import type { Limit } from "../api/index.ts";
import { isUri } from "../chain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import type { SpeedLimitRecord, Store } from "../jobs/index.ts";
import { parseReference, shownReference } from "../sources/index.ts";
import { resolvedPath } from "./allowed-paths.ts";
import type { DaemonOptions } from "./daemon-options.ts";

/** The place of the limit of all streams together. */
export const ALL_STREAMS = "all";
/** The place of the limit of a source for which there is no other. */
const EACH_SOURCE = "each";

type LimitSettings = Pick<DaemonOptions, "hostSpeed" | "sourceSpeed" | "sources">;

/** A limit in force. */
export interface SpeedLimit {
  /** What shares it. */
  readonly name: string;
  /** Bytes a second. */
  readonly speed: number;
}

type Places = ReadonlyMap<string, number | null>;

export class SpeedLimits {
  readonly #settings: Places;
  readonly #said: Map<string, number | null>;
  readonly #store: Store;

  private constructor(settings: Places, said: readonly SpeedLimitRecord[], store: Store) {
    this.#settings = settings;
    this.#said = new Map(said.map(({ place, speed }) => [place, speed]));
    this.#store = store;
  }

  static async of({ hostSpeed, sourceSpeed, sources = {} }: LimitSettings, store: Store): Promise<SpeedLimits> {
    const settings = new Map<string, number | null>();
    if (hostSpeed !== undefined) settings.set(ALL_STREAMS, hostSpeed);
    if (sourceSpeed !== undefined) settings.set(EACH_SOURCE, sourceSpeed);
    for (const [place, { speed }] of Object.entries(sources)) settings.set(await placeOf(place), speed);
    return new SpeedLimits(settings, await store.speedLimits(), store);
  }

  /** All that is said, the general before the special. */
  get views(): Limit[] {
    const places = new Set([ALL_STREAMS, EACH_SOURCE, ...this.#settings.keys(), ...this.#said.keys()]);
    return Array.from(places, (place) => this.#viewOf(place));
  }

  #viewOf(place: string): Limit {
    const setBy = this.#said.has(place) ? "api" : this.#settings.has(place) ? "settings" : "default";
    return { place, speed: this.#speedAt(place) ?? null, setBy };
  }

  /** The limit of all streams together. */
  get all(): SpeedLimit | undefined {
    return limit(ALL_STREAMS, this.#speedAt(ALL_STREAMS));
  }

  /** The limit that a source is under, beside that of all. @param uri as messages show it */
  over(uri: string): SpeedLimit | undefined {
    const places = [...this.#settings.keys(), ...this.#said.keys()].filter((place) => isBelow(uri, place));
    const [place] = places.sort((a, b) => b.length - a.length);
    if (place !== undefined) return limit(place, this.#speedAt(place));
    return limit(`${EACH_SOURCE} ${uri}`, this.#speedAt(EACH_SOURCE));
  }

  /**
   * Changes a limit, durably.
   *
   * @param speed bytes a second; null for none; undefined for what the settings say
   * @returns what holds there now
   * @throws {StreamdiskError} `invalid-argument` for a place that is none
   */
  async set(place: string, speed: number | null | undefined): Promise<Limit> {
    const at = await placeOf(place);
    if (speed === undefined) {
      await this.#store.deleteSpeedLimit(at);
      this.#said.delete(at);
    } else {
      await this.#store.putSpeedLimit({ place: at, speed });
      this.#said.set(at, speed);
    }
    return this.#viewOf(at);
  }

  #speedAt(place: string): number | null | undefined {
    return this.#said.has(place) ? this.#said.get(place) : this.#settings.get(place);
  }
}

/** What is told of it. */
export function limitChanged({ place, speed, setBy }: Limit): string {
  const who =
    place === ALL_STREAMS
      ? "All streams together"
      : place === EACH_SOURCE
        ? "Streams from one source"
        : `Streams from '${place}'`;
  const what = speed === null ? "are not limited" : `may take ${speed} bytes a second together`;
  const how = setBy === "api" ? "also after a restart" : "as the settings say";
  return `${who} ${what} from now on, ${how}; what guests read is never limited`;
}

function limit(name: string, speed: number | null | undefined): SpeedLimit | undefined {
  return typeof speed === "number" ? { name, speed } : undefined;
}

async function placeOf(place: string): Promise<string> {
  if (place === ALL_STREAMS || place === EACH_SOURCE) return place;
  if (place.startsWith("/")) return resolvedPath(place);
  if (!isUri(place)) {
    const message = `'${place}' is no place that streams come from: write '${ALL_STREAMS}', '${EACH_SOURCE}', an absolute path, or the beginning of a URI`;
    throw new StreamdiskError("invalid-argument", message);
  }
  const named = parseReference(place);
  return named.kind === "file" ? resolvedPath(named.path) : plain(shownReference(place));
}

/** Whether a source is what a place names, or lies below it. */
function isBelow(source: string, place: string): boolean {
  const uri = plain(source);
  if (!uri.startsWith(place)) return false;
  return place.endsWith("/") || /^(?:$|[/?&#])/.test(uri.slice(place.length));
}

/** Scheme and host are the same in small letters (RFC 3986, section 6.2.2.1). */
function plain(uri: string): string {
  return uri.replace(/^[A-Za-z][A-Za-z0-9+.-]*:\/\/[^/?#]*/, (root) => root.toLowerCase());
}
