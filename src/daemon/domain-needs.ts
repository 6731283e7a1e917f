/** What the disks of a running machine are filled from, as far as its QEMU and its description say. */
import { realpath } from "node:fs/promises";
import { isUri, resolveReference } from "../chain/index.ts";
import type { DiskDescription, RunningDomain } from "../domain/index.ts";
import { StreamdiskError } from "../errors/index.ts";
import { shownReference } from "../sources/index.ts";
import { sourceInWords } from "./domain-views.ts";

/** @throws {StreamdiskError} when its QEMU gives no answer */
export async function domainPlaces(running: RunningDomain): Promise<string[]> {
  const places: string[] = [];
  for (const disk of running.description.disks) {
    const place = await placeBelow(running, disk);
    if (place !== undefined && !places.includes(place)) places.push(place);
  }
  return places;
}

async function placeBelow(running: RunningDomain, disk: DiskDescription): Promise<string | undefined> {
  try {
    const { backingNode, backingFile, file } = await running.overlay(disk.target);
    if (backingNode === undefined || backingFile === undefined) return undefined;
    const reference = resolveReference(backingFile, file);
    return isUri(reference) ? shownReference(reference) : await realpath(reference).catch(() => reference);
  } catch (error) {
    // It is no overlay, or one that cannot be streamed now.
    if (!(error instanceof StreamdiskError) || !ANSWERS.has(error.code)) throw error;
    const [below] = disk.backing;
    return below === undefined ? undefined : shownReference(sourceInWords(below.source));
  }
}

const ANSWERS: ReadonlySet<string> = new Set(["not-found", "unsupported", "permission", "refused", "in-use"]);
