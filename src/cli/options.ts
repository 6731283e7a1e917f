/** Options that several commands share, and how their values are read. */
import type { Command } from "commander";
import { StreamdiskError } from "../errors/index.ts";
import { FORMAT_NAMES, type FormatName } from "../formats/index.ts";
import type { ImageOptions } from "../image/index.ts";
import type { SourceOptions } from "../sources/index.ts";

/** What the options of {@link sourceOptions} leave. */
export interface SourceFlags {
  readonly sourceTlsCertificates?: string;
  readonly sourceTlsPskFile?: string;
  readonly sourceCaFile?: string;
}

/** What the options of {@link imageOptions} leave. */
export interface ImageFlags extends SourceFlags {
  readonly format?: FormatName;
  readonly allowBacking?: readonly string[] | "any";
  readonly json?: boolean;
}

/** Adds what every command takes that opens an image with its chain. */
export function imageOptions(command: Command): Command {
  command.option("-f, --format <format>", "format of the image: it is believed, not probed", parseFormat);
  return jsonOption(sourceOptions(allowBackingOption(command)));
}

/** What the library is told of an image: its format, what it may name, how to speak to its sources. */
export function openedAs(flags: ImageFlags): ImageOptions {
  return { format: flags.format, allowBacking: allowed(flags), sourceOptions: told(flags) };
}

/** What only an image that is opened here has a use for. */
const FILE_FLAGS = {
  format: "--format",
  allowBacking: "--allow-backing",
  sourceTlsCertificates: "--source-tls-certificates",
  sourceTlsPskFile: "--source-tls-psk-file",
  sourceCaFile: "--source-ca-file",
  chain: "--chain",
  window: "--window",
  retryFor: "--retry-for",
} as const;

/**
 * @param disk a disk of the daemon, which opens its image itself
 * @throws {StreamdiskError} `invalid-argument` for an option that is for files
 */
export function refuseFileFlags(disk: string, flags: object): void {
  const said = flags as Readonly<Record<string, unknown>>;
  const named = Object.entries(FILE_FLAGS).find(([name]) => said[name] !== undefined)?.[1];
  const given = said["detectZeroes"] === false ? "--no-detect-zeroes" : named;
  if (given === undefined) return;
  const message = `'${disk}' is a disk of the daemon, and '${given}' is for files; for a file write ./${disk}`;
  throw new StreamdiskError("invalid-argument", message);
}

/** Adds what every command takes that may open a URI. */
export function sourceOptions(command: Command): Command {
  return command
    .option(
      "--source-tls-certificates <dir>",
      "for nbds sources: ca-cert.pem, client-cert.pem, client-key.pem from there",
    )
    .option("--source-tls-psk-file <file>", "for nbds sources: the pre-shared key from there")
    .option("--source-ca-file <file>", "for https sources: certificates (PEM) to trust beside the usual ones");
}

/** What sources are told. */
export function told(flags: SourceFlags): SourceOptions {
  return {
    tlsCertificates: flags.sourceTlsCertificates,
    tlsPskFile: flags.sourceTlsPskFile,
    caFile: flags.sourceCaFile,
  };
}

export function jsonOption(command: Command): Command {
  return command.option("--json", "print JSON instead of text");
}

/** Adds `--allow-backing PATH`, which may be repeated. */
export function allowBackingOption(command: Command): Command {
  return command.option(
    "--allow-backing <path>",
    "file, directory or URI that a backing reference may name, beside the image's own directory; 'any' allows all (repeatable)",
    allowMore,
  );
}

/** What is allowed by option, and what is allowed because the user named it. */
export function allowed(flags: ImageFlags, ...named: readonly string[]): readonly string[] | "any" {
  return flags.allowBacking === "any" ? "any" : [...(flags.allowBacking ?? []), ...named];
}

/** @throws {StreamdiskError} `invalid-argument` for a name that is no format */
export function parseFormat(text: string): FormatName {
  const format = FORMAT_NAMES.find((name) => name === text);
  if (format !== undefined) return format;
  throw new StreamdiskError("invalid-argument", `'${text}' is not a format that is known here; use ${listed()}`);
}

/** The format of a new image: as given, or by an extension that leaves no doubt. */
export function newFormat(path: string, given: FormatName | undefined): FormatName {
  if (given !== undefined) return given;
  const extension = /\.([^./]*)$/.exec(path)?.[1]?.toLowerCase();
  const format = FORMAT_NAMES.find((name) => name === extension);
  if (format !== undefined) return format;
  throw new StreamdiskError("invalid-argument", `The name '${path}' says no format; add --format ${listed()}`);
}

/**
 * Reads one `-o name=value,name=value` and adds it to those before. As with qemu-img a name alone means `on`, and two
 * commas are a comma of the value.
 */
export function moreFormatOptions(
  text: string,
  before: Readonly<Record<string, string>> = {},
): Readonly<Record<string, string>> {
  const options = new Map(Object.entries(before));
  const separated = text.replace(/,,/g, "\0").split(",");
  for (const part of separated) {
    const [, name, value] = /^([^=]+)(?:=(.*))?$/s.exec(part.replace(/\0/g, ",")) ?? [];
    if (name === undefined) {
      throw new StreamdiskError(
        "invalid-argument",
        `'-o ${text}' is not a list of options; write name=value,name=value`,
      );
    }
    options.set(name, value ?? "on");
  }
  return Object.fromEntries(options);
}

function allowMore(path: string, before: readonly string[] | "any" | undefined): readonly string[] | "any" {
  return path === "any" || before === "any" ? "any" : [...(before ?? []), path];
}

function listed(): string {
  return FORMAT_NAMES.join(", ").replace(/, ([^,]*)$/, " or $1");
}
