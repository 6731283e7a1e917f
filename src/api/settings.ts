/** The settings of a daemon, as its configuration file has them: one JSON object, of which every member may be left out. */
import { z } from "zod";

const absolutePath = z.string().regex(/^\//, "expected an absolute path").max(4096);
/** An absolute path, or the beginning of a URI. */
const place = z
  .string()
  .regex(/^(?:\/|[A-Za-z][A-Za-z0-9+.-]*:)/, "expected an absolute path or the beginning of a URI")
  .max(4096);
const mode = z
  .string()
  .regex(/^0?[0-7]{3}$/, 'expected three octal digits, such as "660"')
  .transform((digits) => Number.parseInt(digits, 8));
const group = z.string().min(1).max(255);
const speed = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER);
export const accelerator = z.enum(["kvm", "tcg"]);
const count = z.number().int().min(0).max(1_000_000_000);

export const settingsFile = z
  .object({
    stateDirectory: absolutePath.describe("Where the daemon keeps its store and its sockets"),
    imageDirectory: absolutePath.describe("Where it makes images, and may open any"),
    socket: absolutePath.describe("Unix socket of the API"),
    socketMode: mode.describe("Permissions of that socket"),
    socketGroup: group.describe("Group of that socket, by name or number"),
    diskSocketMode: mode.describe("Permissions of the sockets of disks and exports"),
    diskSocketGroup: group.describe("Group of those sockets, by name or number"),
    listen: z
      .object({ host: z.union([z.ipv4(), z.ipv6()]).default("127.0.0.1"), port: z.number().int().min(0).max(65_535) })
      .strict()
      .describe("The API over TCP too"),
    tokenFile: absolutePath.describe("The secret that callers over TCP must know"),
    tlsCertificates: absolutePath.describe("TLS for the API over TCP, with certificates from this directory"),
    allow: z.array(place).max(1000).describe("What may be opened beside the image directory, each with all below it"),
    allowKeys: z
      .array(absolutePath)
      .max(1000)
      .describe("Certificates and keys that exports may use, each with all below it; no image may lie there"),
    sourceOptions: z
      .object({ tlsCertificates: absolutePath, tlsPskFile: absolutePath, caFile: absolutePath })
      .partial()
      .strict()
      .describe("Certificates and keys for sources that speak TLS"),
    maxStreams: z.number().int().min(1).max(10_000).describe("How many streams may run at once"),
    speed: speed.describe("Bytes a second of a stream that says none"),
    hostSpeed: speed.describe("Bytes a second of all streams together"),
    sourceSpeed: speed.describe("Bytes a second of all streams from one source together"),
    sources: z
      .record(place, z.object({ speed }).strict())
      .describe("The same of one source, or of all that lie below a path or the beginning of a URI"),
    emulator: absolutePath.describe("QEMU's program for machines"),
    accelerator: accelerator.describe("What runs machines that do not say"),
    refuseQemuArguments: z.boolean().describe("Whether machines with arguments of QEMU's of their own are refused"),
    keep: z
      .object({ events: count, jobs: count })
      .partial()
      .strict()
      .describe("How many events, and how many jobs that have ended, are remembered"),
    logLevel: z.enum(["debug", "info", "warn", "error", "silent"]),
  })
  .partial()
  .strict();

/** After it was checked: nothing is filled in that was left out, but for the host to listen on. */
export type SettingsFile = z.output<typeof settingsFile>;
