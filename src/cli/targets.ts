/**
 * What a name on the command line means. The rule, from the first that fits (docs/commands.md has it as a table):
 *
 *   file:NAME, disk:NAME     what it says
 *   scheme://...             a URI
 *   DOMAIN:/PATH             the disk of a virtual machine whose image that is
 *   a path with a slash, or a name with an image's extension: a file
 *   DOMAIN:DEVICE            the disk of a virtual machine
 *   anything else            a disk of the daemon
 *
 * A name that fits two rows, or that names a disk while a file of that name lies here, is an error that lists both.
 */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { StreamdiskError } from "../errors/index.ts";

export type Target =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "uri"; readonly uri: string }
  /** `name` is what the daemon knows it by: `DOMAIN:DEVICE`. */
  | { readonly kind: "domain"; readonly name: string; readonly domain: string; readonly device: string }
  | { readonly kind: "disk"; readonly name: string };

const IMAGE_EXTENSION = /\.(qcow2|qed|raw|img|iso)$/i;
const URI = /^[a-z][a-z0-9+.-]*:\/\//i;
const DOMAIN_DEVICE = /^([^:]+):([^:]+)$/;
/** Only a path that begins at the root: so a URI that lacks a slash is all that looks alike. */
const DOMAIN_PATH = /^([^:/]+):(\/.+)$/s;

/**
 * Decides what a command-line argument names.
 *
 * @param exists whether a file of that name is there, asked only for a name that would otherwise be no file
 * @throws {StreamdiskError} `invalid-argument` for an empty or ambiguous name
 */
export function parseTarget(text: string, exists: (path: string) => boolean = existsSync): Target {
  if (text === "") throw new StreamdiskError("invalid-argument", "The name of an image is empty");
  if (text.startsWith("file://")) return { kind: "file", path: fromFileUrl(text) };
  if (text.startsWith("file:")) return { kind: "file", path: forced(text, "file:") };
  if (text.startsWith("disk:")) return { kind: "disk", name: forced(text, "disk:") };
  if (URI.test(text)) return { kind: "uri", uri: text };
  const isPath = text.includes("/");
  const [, domain, device] = (isPath ? DOMAIN_PATH : DOMAIN_DEVICE).exec(text) ?? [];
  const isDomain = domain !== undefined && device !== undefined;
  if (isPath && !isDomain) return { kind: "file", path: text };
  if (isDomain && ((!isPath && IMAGE_EXTENSION.test(text)) || exists(text))) {
    throw ambiguous(
      text,
      `write ./${text} for the file; rename the file if you mean disk '${device}' of domain '${domain}'`,
    );
  }
  if (isDomain) return { kind: "domain", name: text, domain, device };
  if (IMAGE_EXTENSION.test(text)) return { kind: "file", path: text };
  if (exists(text)) {
    throw ambiguous(text, `write ./${text} or file:${text} for the file, disk:${text} for a disk of the daemon`);
  }
  return { kind: "disk", name: text };
}

/** The name of an argument that must be a disk of the daemon: with or without `disk:`. */
export function diskName(text: string): string {
  return text.startsWith("disk:") ? forced(text, "disk:") : text;
}

/** A disk that the daemon knows: its own, or a domain's. */
export type DiskTarget = Extract<Target, { readonly kind: "disk" | "domain" }>;
export type DomainTarget = Extract<Target, { readonly kind: "domain" }>;

/** An argument that must be a disk which the daemon knows: whatever it looks like, it is no file. */
export function diskTarget(text: string): DiskTarget {
  const name = diskName(text);
  const [, domain, device] = DOMAIN_PATH.exec(name) ?? DOMAIN_DEVICE.exec(name) ?? [];
  return domain === undefined || device === undefined
    ? { kind: "disk", name }
    : { kind: "domain", name, domain, device };
}

/**
 * What the daemon is told of a place: a URI as it stands, a path from here. A bare name that is not here is one in the daemon's image
 * directory.
 */
export function placeForDaemon(text: string, exists: (path: string) => boolean = existsSync): string {
  if (/^[a-z][a-z0-9+.-]*:/i.test(text)) return text;
  return text.includes("/") || exists(text) ? resolve(text) : text;
}

/**
 * What the library opens for an argument: a path, or a URI as it stands.
 *
 * @throws {StreamdiskError} `unsupported` for a disk of the daemon or of a domain
 */
export function imageReference(text: string): string {
  const target = parseTarget(text);
  return target.kind === "uri" ? target.uri : filePath(text);
}

/**
 * The path of an argument that must be a file.
 *
 * @throws {StreamdiskError} `unsupported` for a URI, and for a disk of the daemon or of a domain
 */
export function filePath(text: string): string {
  const target = parseTarget(text);
  switch (target.kind) {
    case "file":
      // The library takes a path that looks like a URI for one.
      return /^[^/]*:/.test(target.path) ? `./${target.path}` : target.path;
    case "uri":
      throw new StreamdiskError("unsupported", `'${text}' is a URI, and this needs a file`, { uri: text });
    case "domain":
      throw new StreamdiskError(
        "unsupported",
        `'${text}' is the disk '${target.device}' of the domain '${target.domain}', and this needs a file; ${fileHint(text)}`,
      );
    case "disk":
      throw new StreamdiskError(
        "unsupported",
        `'${text}' names a disk of the daemon, and this needs a file; ${fileHint(target.name)}. For disks see 'streamdisk disk --help'`,
      );
  }
}

function forced(text: string, prefix: string): string {
  const rest = text.slice(prefix.length);
  if (rest === "") throw new StreamdiskError("invalid-argument", `'${text}' names nothing after '${prefix}'`);
  return rest;
}

function fromFileUrl(text: string): string {
  try {
    return fileURLToPath(text);
  } catch (error) {
    throw new StreamdiskError("invalid-argument", `'${text}' is not the URL of a file here`, {}, error);
  }
}

function ambiguous(text: string, choice: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", `'${text}' is ambiguous: ${choice}`);
}

function fileHint(name: string): string {
  return `for a file write ./${name}`;
}
