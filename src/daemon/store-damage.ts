/** What was lost with a damaged store, in words: each by its name, and what is to be done about it. */
import { diskName } from "../api/index.ts";
import type { LostRow, Salvage } from "./salvage.ts";

/** Something that was damaged in the store, or done about it. */
export interface StoreDamage {
  /** A sentence. */
  readonly message: string;
  /** Name of a disk whose record is lost. */
  readonly disk?: string;
  /** Its id, where that is still known: its streams are remembered by it. */
  readonly diskId?: string;
}

const CALLED: Readonly<Record<LostRow["table"], readonly [what: string, next: string]>> = {
  disk: ["the disk", "its image was not touched"],
  export: ["the export", "add it again with 'streamdisk export add'"],
  job: ["the stream", "one that was under way is to be started again"],
  event: ["the event", "nothing depends on it"],
  speed_limit: ["the limit of", "set it again with 'streamdisk source limit'"],
  domain: ["the domain", "add it again with 'streamdisk domain add'"],
  deployment: ["the deployment", "its machine, disk and export are kept as what they are"],
};
/** More than these are counted, not named. */
const MOST_NAMED = 20;
const MOST_SHOWN = 80;

/** @param aside where the damaged store was copied to */
export function damageOf({ lost, broken }: Salvage, aside: string): StoreDamage[] {
  // A table of disks that is named late would be one of disks that nobody looks for.
  const named = [...lost.filter(({ table }) => table === "disk"), ...lost.filter(({ table }) => table !== "disk")];
  const more = named.length - MOST_NAMED;
  return [
    { message: `The store was damaged: what could be read of it was kept, and a copy as it was is '${aside}'` },
    ...named.slice(0, MOST_NAMED).map(inWords),
    ...(more > 0 ? [{ message: `${more} more records of the store were damaged and are lost` }] : []),
    ...broken.map((table) => ({ message: `The store's list of each ${table} could not be read as a whole` })),
  ];
}

function inWords({ table, key, text }: LostRow): StoreDamage {
  const [what, next] = CALLED[table];
  const name = table === "disk" ? nameIn(key, text) : undefined;
  const shown = name ?? key.replaceAll(/[^\x20-\x7e]/g, "?").slice(0, MOST_SHOWN);
  const message = `The record of ${what} '${shown}' was damaged and is lost; ${next}`;
  if (name === undefined) return { message };
  return { message, disk: name, ...(isIdOf(name, key) && { diskId: key }) };
}

/** By its id, which begins with what it was called, or else by what is left of its record. */
function nameIn(key: string, text: string): string | undefined {
  const told = [/"name":"([^"]*)"/.exec(text)?.[1], key.split("@", 1)[0]];
  const fits = told.filter((name) => diskName.safeParse(name).success);
  return fits.find((name) => isIdOf(name ?? "", key)) ?? fits[0];
}

function isIdOf(name: string, key: string): boolean {
  return key.startsWith(`${name}@`) && /^[0-9a-f]{8}$/.test(key.slice(name.length + 1));
}
