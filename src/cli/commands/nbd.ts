import { Argument, type Command } from "commander";
import { listNbdExports, type NbdExportInfo, nbdExportInfo } from "../../nbd/index.ts";
import { helpAfter } from "../help.ts";
import { jsonOption } from "../options.ts";
import { columns, printJson, printLines, sizeWithBytes } from "../output.ts";

interface Flags {
  readonly tlsCertificates?: string;
  readonly tlsPskFile?: string;
  readonly json?: boolean;
}

export function define(command: Command): void {
  command
    .addArgument(
      new Argument("<what>", "info: the export that the URI names; list: all that its server has").choices([
        "info",
        "list",
      ]),
    )
    .argument("<uri>", "nbd://, nbds://, nbd+unix:// or nbds+unix://")
    .option("--tls-certificates <dir>", "for nbds: ca-cert.pem, client-cert.pem and client-key.pem from there")
    .option("--tls-psk-file <file>", "for nbds: the pre-shared key from there");
  jsonOption(command)
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk nbd info nbd://images.example.com/debian",
        "streamdisk nbd list 'nbd+unix:///?socket=/run/vm1.sock'",
      ]),
    )
    .action(async (what: string, uri: string, { tlsCertificates, tlsPskFile, json }: Flags) => {
      const tls = { tlsCertificates, tlsPskFile };
      if (what === "info") {
        const info = await nbdExportInfo(uri, tls);
        if (json) printJson(info);
        else printLines(...infoLines(info));
        return;
      }
      const exports = await listNbdExports(uri, tls);
      if (json) printJson(exports);
      else printLines(...columns(exports.map(({ name, description }) => [`'${name}'`, description])));
    });
}

function infoLines(info: NbdExportInfo): string[] {
  const can: readonly (readonly [boolean, string])[] = [
    [info.canFlush, "flush"],
    [info.canFua, "FUA"],
    [info.canTrim, "trim"],
    [info.canWriteZeroes, "write zeroes"],
    [info.canFastZero, "fast zero"],
    [info.canCache, "cache"],
    [info.canDontFragment, "don't fragment"],
    [info.canMultiConn, "multi-conn"],
    [info.structuredReplies, "structured replies"],
  ];
  const lines = [
    `export: '${info.exportName}'`,
    `virtual size: ${sizeWithBytes(info.length)}`,
    `access: ${info.readOnly ? "read-only" : "read and write"}`,
    `TLS: ${info.tls ? "yes" : "no"}`,
    `block sizes: ${info.minimumBlock} minimum, ${info.preferredBlock} preferred, ${info.maximumPayload} maximum`,
    `can: ${can.flatMap(([yes, name]) => (yes ? [name] : [])).join(", ")}`,
    `metadata contexts: ${info.contexts.join(", ") || "none"}`,
  ];
  if (info.description) lines.splice(1, 0, `description: ${info.description}`);
  return lines;
}
