/** What goes over the API about domains. */
import { z } from "zod";
import { domainName } from "./names.ts";
import { job } from "./schemas.ts";
import { accelerator } from "./settings.ts";

const bytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

export const domainDisk = z
  .object({
    name: z.string().describe("DOMAIN:DEVICE, by the target"),
    target: z.string(),
    alias: z.string().optional(),
    device: z.string().describe('"disk", "cdrom"...'),
    format: z.string().optional(),
    image: z.string().optional(),
    backing: z.string().optional(),
    stream: job.optional().describe("The last one"),
  })
  .describe("A disk of a domain");

export const domainDiskNow = domainDisk
  .extend({
    length: bytes.describe("Virtual size"),
    localBytes: bytes,
    missingBytes: bytes,
    hydrated: z.boolean().describe("It needs its backing file no more"),
    error: z
      .object({ code: z.string(), message: z.string() })
      .optional()
      .describe("Why it could not be looked at: the figures are those that its stream had last"),
  })
  .describe("A disk of a domain, and how it is now");

export const sourceReplaced = domainDisk
  .extend({ compared: bytes.describe("Bytes that were found equal"), warnings: z.array(z.string()) })
  .describe("A disk of a domain, and what was found of its new source");

const machine = z
  .object({
    pid: z.number().int().optional().describe("Of its QEMU, while it runs"),
    autostart: z.boolean().describe("It starts with its host again"),
    memory: bytes,
    cpus: z.number().int(),
    accelerator: accelerator.optional().describe("What ran it last: the processor itself, or QEMU's emulation"),
    console: z.string().describe("Unix socket of its serial console, while it runs"),
    consoleLog: z.string().describe("What was written to that"),
    log: z.string().describe("What QEMU said of errors"),
    startedAt: z.number().optional(),
    end: z
      .object({ reason: z.string().describe('"guest shut down", "killed by signal 9 (SIGKILL)"...'), at: z.number() })
      .optional()
      .describe("How its last run ended"),
  })
  .describe("A machine that the daemon runs itself");

const libvirt = z
  .object({
    name: z.string().min(1).max(255).describe("Name or UUID"),
    connect: z
      .string()
      .max(512)
      .optional()
      .describe(
        "URI of a libvirt on this host. Default: qemu:///system for a daemon of root, otherwise qemu:///session",
      ),
  })
  .strict()
  .describe("A domain that libvirt runs");

export const domainPause = z
  .object({
    code: z
      .enum(["source-lost", "changed", "no-space", "io", "paused"])
      .describe("paused: somebody has done it; otherwise the error that has stopped it"),
    reason: z.string().describe("What has happened, and what happens next"),
    since: z.number(),
    disk: z.string().optional().describe("DOMAIN:DEVICE"),
    source: z.string().optional().describe("Path or URI of the source that it lacks"),
    byUser: z.boolean().describe("It does not go on by itself"),
  })
  .describe("Why a domain does not run");

export const domain = z
  .object({
    name: domainName,
    qmp: z.string().optional().describe("Path of the QMP socket; absent for a domain of libvirt's"),
    libvirt: libvirt.required().optional(),
    state: z
      .string()
      .describe(
        "What QEMU says: running, paused, io-error...; unreachable; of a machine made here also starting, stopped; of libvirt's: shut off, crashed..., gone",
      ),
    error: z.object({ code: z.string(), message: z.string() }).optional(),
    pause: domainPause.optional(),
    warnings: z.array(z.string()).optional(),
    disks: z.array(domainDisk),
    machine: machine.optional().describe("Absent for one that somebody else runs"),
    createdAt: z.number(),
  })
  .describe("A virtual machine");

export const newDomain = z
  .object({
    name: domainName,
    qmp: z
      .string()
      .regex(/^\/[^\0]{1,107}$/)
      .optional()
      .describe("Absolute path of a QMP socket of its own"),
    xml: z.string().max(48_000).optional().describe("libvirt's description; absent: QEMU is asked"),
    libvirt: libvirt.optional().describe("In the place of a socket and XML: both are libvirt's"),
  })
  .strict();

const autostart = z.boolean().optional().describe("Whether it starts with its host again; absent: as before");

export const newMachine = z
  .object({ xml: z.string().max(48_000).describe("libvirt's XML of it, all of which is done or refused"), autostart })
  .strict();

export const machineStart = z.object({ autostart }).strict();

export const stopDomain = z
  .object({
    force: z.boolean().default(false).describe("End its QEMU without a word to the guest"),
    timeoutMs: z.number().int().min(1000).max(600_000).default(60_000).describe("How long it may take"),
  })
  .strict();

export type Domain = z.infer<typeof domain>;
export type DomainDisk = z.infer<typeof domainDisk>;
