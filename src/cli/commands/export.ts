import type { Command } from "commander";
import { StreamdiskError } from "../../errors/index.ts";
import type { SourcePolicy } from "../../filters/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { clientsTable } from "../client-lines.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { exportsTable } from "../disk-lines.ts";
import { helpAfter } from "../help.ts";
import { parseCount, parsePort } from "../numbers.ts";
import { jsonOption, parseFormat } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { parseSourcePolicy, sentPolicy } from "../source-policy.ts";
import { placeForDaemon } from "../targets.ts";
import { parseSize } from "../units.ts";

interface AddFlags extends DaemonFlags {
  readonly format?: FormatName;
  readonly writable?: boolean;
  readonly socket?: string;
  readonly port?: number;
  readonly bind?: string;
  readonly tlsCertificates?: string;
  readonly tlsPskFile?: string;
  readonly maxConnections?: number;
  readonly onSourceError?: SourcePolicy;
  readonly cache?: number;
}

export function define(command: Command): void {
  command.addHelpText(
    "after",
    helpAfter([
      "streamdisk export add debian ./debian.qcow2 --port 10809 --bind 0.0.0.0 --tls-certificates /etc/pki/streamdisk",
      "streamdisk export ls --json | jq '.[].uri'",
      "streamdisk export rm debian",
    ]),
  );
  const add = command.command("add").description("Offer an image under a name, from now on and after every restart.");
  jsonOption(daemonOptions(add))
    .argument("<name>", "name of the export")
    .argument("<image>", "the image: a path or a URI")
    .option("-f, --format <format>", "format of the image: it is believed, not probed", parseFormat)
    .option("--writable", "clients may write")
    .option("--socket <path>", "listen on a Unix socket there; without it and --port, on one in the state directory")
    .option("--port <number>", "listen on TCP; 0 takes a free port, which the export keeps", parsePort)
    .option("--bind <address>", "with --port: the address to listen on; without it, loopback")
    .option(
      "--on-source-error <policy>",
      "reads that a lost source cannot answer: hold, hold:30s,error, hold:30s,pause, pause, error. Without it, hold:30s,error",
      parseSourcePolicy,
    )
    .option(
      "--cache <size>",
      "keep so much in memory of what was read last, for many readers, for example 64M",
      parseSize,
    )
    .option("--tls-certificates <dir>", "TLS with ca-cert.pem, server-cert.pem and server-key.pem from there")
    .option("--tls-psk-file <file>", "TLS with pre-shared keys from there")
    .option("--max-connections <number>", "clients at a time at most", parseCount)
    .addHelpText("after", helpAfter(["streamdisk export add debian ./debian.qcow2 --port 10809"]))
    .action(addExport);
  const ls = command.command("ls").description("List what is offered.");
  jsonOption(daemonOptions(ls))
    .addHelpText("after", helpAfter(["streamdisk export ls"]))
    .action(async (flags: DaemonFlags) => {
      await withDaemon(flags, async (client) => {
        const { exports } = await client.call("listExports", {});
        if (flags.json) printJson(exports);
        else printLines(...exportsTable(exports));
      });
    });
  const clientsOf = command
    .command("clients")
    .description("Show who is connected to an export, what each has asked for, and how long it waited.");
  jsonOption(daemonOptions(clientsOf))
    .argument("<name>", "name of the export")
    .addHelpText("after", helpAfter(["streamdisk export clients debian"]))
    .action(async (name: string, flags: DaemonFlags) => {
      const { clients } = await withDaemon(flags, (client) =>
        client.call("exportClients", { params: { export: name } }),
      );
      if (flags.json) printJson(clients);
      else printLines(...clientsTable(clients));
    });
  const rm = command.command("rm").description("Offer it no more; its file stays.");
  jsonOption(daemonOptions(rm))
    .argument("<name>", "name of the export")
    .addHelpText("after", helpAfter(["streamdisk export rm debian"]))
    .action(async (name: string, flags: DaemonFlags) => {
      await withDaemon(flags, (client) => client.call("removeExport", { params: { export: name } }));
      if (flags.json) printJson({ name });
      else printLines(`'${name}' is offered no more; its file stays`);
    });
}

async function addExport(name: string, image: string, flags: AddFlags): Promise<void> {
  const { format, writable = false, tlsCertificates, tlsPskFile, maxConnections, onSourceError, cache } = flags;
  await withDaemon(flags, async (client) => {
    const made = await client.call("addExport", {
      body: {
        name,
        image: placeForDaemon(image),
        readOnly: !writable,
        listen: listenOf(flags),
        ...(format !== undefined && { format }),
        ...(tlsCertificates !== undefined && { tlsCertificates: placeForDaemon(tlsCertificates) }),
        ...(tlsPskFile !== undefined && { tlsPskFile: placeForDaemon(tlsPskFile) }),
        ...(maxConnections !== undefined && { maxConnections }),
        ...(onSourceError !== undefined && { onSourceError: sentPolicy(onSourceError) }),
        ...(cache !== undefined && { cache }),
      },
    });
    if (flags.json) printJson(made);
    else printLines(`'${made.image}' is offered at ${made.uri ?? "-"}`);
  });
}

function listenOf({ socket, port, bind }: AddFlags) {
  if (socket !== undefined && port !== undefined) {
    throw new StreamdiskError("invalid-argument", "Options '--socket' and '--port' exclude each other");
  }
  if (bind !== undefined && port === undefined) {
    throw new StreamdiskError("invalid-argument", "Option '--bind' needs '--port'");
  }
  if (port !== undefined) return { port, ...(bind !== undefined && { bind }) };
  return socket === undefined ? {} : { socket: placeForDaemon(socket) };
}
