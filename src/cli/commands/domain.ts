import { resolve } from "node:path";
import type { Command } from "commander";
import { domainName } from "../../api/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { withDaemon } from "../daemon-link.ts";
import { type DaemonFlags, daemonOptions } from "../daemon-options.ts";
import { defineDomainActs } from "../domain-acts.ts";
import { defineAttach } from "../domain-attach.ts";
import { domainLines, domainsTable } from "../domain-show.ts";
import { defineStart } from "../domain-start.ts";
import { helpAfter } from "../help.ts";
import { jsonOption } from "../options.ts";
import { printJson, printLines } from "../output.ts";
import { readText } from "../read-text.ts";

interface AddFlags extends DaemonFlags {
  readonly qmp?: string;
  readonly xml?: string;
  readonly libvirt?: string;
  readonly connect?: string;
}

export function define(command: Command): void {
  command.addHelpText(
    "after",
    helpAfter([
      "streamdisk domain add web --qmp /run/web.qmp",
      "streamdisk domain add --libvirt db",
      "streamdisk domain start --xml vm1.xml",
      "streamdisk domain show web",
      "streamdisk stream web:vda",
      "streamdisk domain pause web",
      "streamdisk domain ls --json | jq '.[].state'",
      "streamdisk domain rm web",
    ]),
  );
  const add = command.command("add").description("Take up a virtual machine that runs; its QEMU must answer.");
  jsonOption(daemonOptions(add))
    .argument("[name]", "what it is to be called; of a domain of libvirt's, its name there when absent")
    .option("--qmp <socket>", "QMP socket of its QEMU, which nobody else uses")
    .option("--xml <file>", "libvirt's XML of it, for the names of its disks; without it, QEMU is asked")
    .option(
      "--libvirt <domain>",
      "a domain that libvirt runs, by its name or UUID: spoken to by virsh, which taints it",
    )
    .option("--connect <uri>", "of which libvirt: qemu:///system, qemu:///session; as virsh when absent")
    .addHelpText(
      "after",
      helpAfter([
        "streamdisk domain add web --qmp /run/web.qmp --xml web.xml",
        "streamdisk domain add --libvirt db --connect qemu:///system",
      ]),
    )
    .action(addDomain);
  defineStart(command);
  const ls = command.command("ls").description("List the domains.");
  jsonOption(daemonOptions(ls))
    .addHelpText("after", helpAfter(["streamdisk domain ls"]))
    .action(async (flags: DaemonFlags) => {
      const { domains } = await withDaemon(flags, (client) => client.call("listDomains", {}));
      if (flags.json) printJson(domains);
      else printLines(...domainsTable(domains));
    });
  const show = command.command("show").description("Show a domain and its disks.");
  jsonOption(daemonOptions(show))
    .argument("<name>", "name of the domain")
    .addHelpText("after", helpAfter(["streamdisk domain show web"]))
    .action(async (name: string, flags: DaemonFlags) => {
      const shown = await withDaemon(flags, (client) => client.call("getDomain", { params: { domain: name } }));
      if (flags.json) printJson(shown);
      else printLines(...domainLines(shown));
    });
  const xml = command.command("dumpxml").description("Print its XML, or one made of what its QEMU says.");
  jsonOption(daemonOptions(xml))
    .argument("<name>", "name of the domain")
    .addHelpText("after", helpAfter(["streamdisk domain dumpxml web"]))
    .action(async (name: string, flags: DaemonFlags) => {
      const text = await withDaemon(flags, (client) => client.call("domainXml", { params: { domain: name } }));
      if (flags.json) printJson(text);
      else printLines(...text.xml.trimEnd().split("\n"));
    });
  defineAttach(command);
  defineDomainActs(command);
  const rm = command
    .command("rm")
    .summary("Forget a virtual machine.")
    .description(
      "Forget a virtual machine: one of somebody else's runs on, one that was started here must be stopped.",
    );
  jsonOption(daemonOptions(rm))
    .argument("<name>", "name of the domain")
    .addHelpText("after", helpAfter(["streamdisk domain rm web"]))
    .action(async (name: string, flags: DaemonFlags) => {
      await withDaemon(flags, (client) => client.call("removeDomain", { params: { domain: name } }));
      if (flags.json) printJson({ name });
      else printLines(`The domain '${name}' was removed: its images stay, and a machine that runs goes on`);
    });
}

/** What libvirt does not know. */
const OF_LIBVIRT = [
  "libvirt marks the domain as tainted ('custom-monitor'), since its QEMU is spoken to by qemu-monitor-command.",
  "Once a disk stands alone, libvirt's XML goes on to show its backing file (backingStore) until the domain is started again.",
];

async function addDomain(given: string | undefined, flags: AddFlags): Promise<void> {
  const { qmp, xml, libvirt, connect } = flags;
  const name = given ?? libvirt;
  if (name === undefined) throw usage("Give the domain a name, or --libvirt with one of libvirt's");
  if (qmp === undefined && libvirt === undefined) throw usage(`Give --qmp or --libvirt, by which '${name}' is reached`);
  if (connect !== undefined && libvirt === undefined) throw usage("Option '--connect' needs '--libvirt'");
  if (given === undefined && !domainName.safeParse(name).success) {
    throw usage(`'${name}' can't be a name here: give it one, 'streamdisk domain add NAME --libvirt ...'`);
  }
  const body = {
    name,
    ...(qmp !== undefined && { qmp: resolve(qmp) }),
    ...(xml !== undefined && { xml: await readText(xml) }),
    ...(libvirt !== undefined && { libvirt: { name: libvirt, ...(connect !== undefined && { connect }) } }),
  };
  await withDaemon(flags, async (client) => {
    const added = await client.call("addDomain", { body });
    if (flags.json) printJson(added);
    else printLines(...domainLines(added), ...(libvirt === undefined ? [] : ["", ...OF_LIBVIRT]));
  });
}

function usage(message: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", message);
}
