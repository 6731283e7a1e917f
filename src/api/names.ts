/** What things are called over the API. Runs in a browser too. */
import { z } from "zod";

const WORD = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}";
const NAME = new RegExp(`^${WORD}$`);
export const diskName = z.string().regex(NAME).describe("What people call a disk or an export");
export const domainName = z.string().regex(NAME).describe("What people call a domain");
const DEVICE = `(${WORD}|/[^\\0]{1,4095})`;
export const deviceName = z
  .string()
  .regex(new RegExp(`^${DEVICE}$`))
  .describe("A disk of a domain, by its target, its alias or the absolute path of its image");
/** NAME or DOMAIN:DEVICE. */
export const streamName = z
  .string()
  .regex(new RegExp(`^${WORD}(:${DEVICE})?$`))
  .describe("A disk, or a domain's as DOMAIN:DEVICE");
export const formatName = z.enum(["qcow2", "qed", "raw"]);
/** Which of them are allowed is the daemon's to say. */
export const reference = z
  .string()
  .regex(/^[^\0]{1,4096}$/)
  .describe("A path or a URI");
