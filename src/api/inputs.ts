/** What the inputs of several calls have in common. */
import { z } from "zod";
import { diskName } from "./names.ts";
import { nbdClient } from "./schemas.ts";

export const bytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const TRUTH: ReadonlyMap<string, boolean> = new Map([
  ["true", true],
  ["false", false],
]);
/** How many entries a page may have. */
export const limit = inQuery(z.number().int().min(1).max(1000)).default(100);
export const flag = inQuery(z.boolean());
export const noInput = z.object({}).strict();
export const nothing = z.undefined();

/** Of a query, in which everything is text. What is no plain number and no truth value stays text, for the schema to refuse. */
export function inQuery<S extends z.ZodNumber | z.ZodBoolean>(schema: S) {
  return z.preprocess((value: z.input<S> | string) => {
    if (typeof value !== "string") return value;
    return /^\d{1,16}$/.test(value) ? Number(value) : (TRUTH.get(value) ?? value);
  }, schema);
}

export const ofDisk = z.object({ disk: diskName }).strict();

export const clients = z.object({ clients: z.array(nbdClient) });
