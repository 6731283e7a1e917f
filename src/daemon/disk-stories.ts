/** What is told of a disk: what happened, why, and what happens next. */
import type { ServedDisk } from "../engine/index.ts";
import type { StreamdiskError } from "../errors/index.ts";
import type { SourcePolicy } from "../filters/index.ts";
import type { DiskRecord, EventType } from "../jobs/index.ts";
import { shownReference } from "../sources/index.ts";
import type { EventFacts, EventHub } from "./event-hub.ts";

/** What programs are told of a source. One that was deleted is read on: no error. */
const SOURCE_FACTS = {
  "source-lost": { code: "source-lost" },
  "source-changed": { code: "changed" },
  "source-deleted": {},
  "source-back": {},
} as const satisfies Partial<Record<EventType, EventFacts>>;
type SourceEvent = keyof typeof SOURCE_FACTS;

export class DiskStories {
  readonly #events: EventHub;

  constructor(events: EventHub) {
    this.#events = events;
  }

  created({ name, settings, ownsFile }: DiskRecord): Promise<void> {
    const over = settings.backing === undefined ? "" : ` over '${shownReference(settings.backing)}'`;
    const message = ownsFile
      ? `'${name}' was made as '${settings.image}'${over} and is served`
      : `'${settings.image}' was adopted as '${name}' and is served`;
    return this.#events.tell("disk-created", message, { disk: name });
  }

  undone(name: string): Promise<void> {
    const message = `'${name}' was being made when the daemon ended, and was not complete: it was undone; make it again`;
    return this.#events.tell("disk-deleted", message, { disk: name });
  }

  /** From now on it is told what becomes of its source. @param disk whose settings may change meanwhile */
  opened(disk: { readonly record: DiskRecord }, served: ServedDisk): void {
    const { name } = disk.record;
    const message = `'${name}' is served at ${served.uri}; what its image lacks comes from below when it is read`;
    void this.#events.tell("disk-opened", message, { disk: name });
    const policy = (): string => policyInWords(disk.record.settings.onSourceError);
    served.on("source", ({ state, message = "" }) => {
      if (state === "lost")
        this.#source("source-lost", name, `is lost: ${message}. Local data is served on; ${policy()}`);
      else if (state === "changed") {
        const next = "reads of what is missing get errors; name another place for it with replace-source";
        this.#source("source-changed", name, `is not what it was: ${message}. Local data is served on; ${next}`);
      } else if (state === "deleted") {
        this.#source("source-deleted", name, `is not there any more: ${message}. The end of the daemon closes it too`);
      } else this.#source("source-back", name, "is back: what waited for it goes on");
    });
    served.on("pause", () => {
      const message = `A read of '${name}' gets an error because its source is lost: pause its machine (its policy says so), and let it go on when the source is back`;
      void this.#events.tell("pause-wanted", message, { disk: name });
    });
  }

  #source(type: SourceEvent, disk: string, what: string): void {
    void this.#events.tell(type, `The source of '${disk}' ${what}`, { disk, ...SOURCE_FACTS[type] });
  }

  failed({ name }: DiskRecord, { code, message, context }: StreamdiskError): Promise<void> {
    const { offset, length } = context;
    const range = { ...(offset !== undefined && { offset }), ...(length !== undefined && { length }) };
    const facts: EventFacts = { disk: name, code, ...range };
    return this.#events.tell(
      "disk-failed",
      `'${name}' could not be opened: ${message}. It is tried again now and then`,
      facts,
    );
  }

  lost({ name }: DiskRecord, { code, message }: StreamdiskError): Promise<void> {
    return this.#events.tell("disk-lost", `${message}: '${name}' is opened again by itself`, { disk: name, code });
  }

  resized(name: string, length: number): Promise<void> {
    const message = `'${name}' has ${length} bytes now; clients that are connected see that when they connect again`;
    return this.#events.tell("disk-changed", message, { disk: name, length });
  }

  /** @param compared bytes that were found equal */
  sourceReplaced(name: string, to: string, compared: number): Promise<void> {
    return this.#events.tell("disk-changed", sourceReplaced(name, to, compared), { disk: name });
  }

  baseReached(name: string, base: string): Promise<void> {
    const message = `Nothing is missing in '${name}' above its base '${shownReference(base)}': it lies over that now, and needs what was between no longer`;
    return this.#events.tell("base-reached", message, { disk: name });
  }

  deleted({ name, settings, deleteFile }: DiskRecord): Promise<void> {
    const file = deleteFile ? "was deleted too" : "stays";
    return this.#events.tell("disk-deleted", `'${name}' is served no more; its file '${settings.image}' ${file}`, {
      disk: name,
    });
  }
}

/** What is told of a disk whose source is another now, whoever owns it. */
export function sourceReplaced(name: string, to: string, compared: number): string {
  const evidence = compared === 0 ? "nothing could be compared" : `${compared} bytes were compared and are equal`;
  return `The source of '${name}' is now '${shownReference(to)}' (${evidence}); what waited for it goes on`;
}

function policyInWords({ holdMs, afterwards }: SourcePolicy): string {
  const then = afterwards === "pause" ? "then its machine is to be paused" : "then get errors";
  if (holdMs === 0)
    return afterwards === "pause"
      ? "its machine is to be paused at the first read of what is missing"
      : "reads of what is missing get errors";
  if (holdMs === Number.POSITIVE_INFINITY) return "reads of what is missing wait until it is back";
  return `reads of what is missing wait for ${holdMs / 1000} seconds, ${then}`;
}
