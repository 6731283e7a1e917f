/** What goes over the API about deployments. */
import { z } from "zod";
import { bytes } from "./inputs.ts";
import { diskName, formatName, reference } from "./names.ts";
import { job, sourcePolicy } from "./schemas.ts";

/** Shorter than other names: its disk is called after it. */
export const deploymentName = diskName.max(56).describe("What people call a deployment, and its machine");
const owner = z.enum(["qemu", "engine"]).describe("Who opens the disk's image: the machine's QEMU, or the daemon");
const overlayFormat = z.enum(["qcow2", "qed"]);

export const deployment = z
  .object({
    name: deploymentName,
    state: z.enum(["making", "ready", "removing"]),
    image: z.string().describe("What it was made from"),
    source: z.string().describe("Name of the export of that, which it shares with others"),
    owner,
    domain: z.string().optional().describe("Name of its machine; absent: it has none"),
    disk: z.string().describe("What its disk is called in calls about streams: a disk, or DOMAIN:DEVICE"),
    overlay: z.string().describe("Path of its disk's image"),
    format: overlayFormat,
    keepDisk: z.literal(true).optional().describe("Of one that is being removed: the image of its disk stays"),
    hydrated: z.boolean().describe("Its disk stands alone: it needs neither the export nor the image"),
    stream: job.optional().describe("The one that has not ended, or the last"),
    uri: z.string().optional().describe("NBD URI of its disk, of a disk that the daemon owns"),
    qemuArgs: z.array(z.string()).optional().describe("What a QEMU needs to use that"),
    steps: z.array(z.object({ name: z.string(), ms: z.number() })).describe("What was done, and milliseconds it took"),
    createdAt: z.number(),
  })
  .describe("A machine, or a disk for one, that was made from an image");

export const newDeployment = z
  .object({
    name: deploymentName,
    image: reference,
    imageFormat: formatName.optional(),
    format: overlayFormat.default("qcow2"),
    owner: owner.optional().describe(`${owner.description}; absent: qemu, and engine for exportOnly`),
    exportOnly: z
      .boolean()
      .default(false)
      .describe("A disk of the daemon alone, for a machine that somebody else runs"),
    machine: z
      .union([
        z.object({ xml: z.string().max(48_000).describe("libvirt's; its disk vda is the one that is made") }).strict(),
        z
          .object({ args: z.array(z.string().max(4096)).max(256).describe("More arguments of QEMU for a usual one") })
          .strict(),
      ])
      .optional()
      .describe("Absent: a usual one, unless exportOnly"),
    size: bytes.min(512).optional().describe("Virtual size of its disk; absent: that of the image"),
    speed: bytes.min(1).optional().describe("Bytes a second that are fetched at most"),
    onSourceError: sourcePolicy.optional(),
  })
  .strict();

export type Deployment = z.infer<typeof deployment>;
