import { execFile } from "node:child_process";
import type { Command } from "commander";
import { type HostFact, probeHost } from "../../host/index.ts";
import { helpAfter } from "../help.ts";
import { jsonOption } from "../options.ts";
import { columns, printJson, printLines } from "../output.ts";

const EXIT_FAULTS = 1;

export function define(command: Command): void {
  command.argument("[directory]", "where images lie", ".");
  jsonOption(command)
    .addHelpText(
      "after",
      helpAfter(["streamdisk doctor", "streamdisk doctor /var/lib/images --json"], {
        0: "all works",
        [EXIT_FAULTS]: "something does not work: what that costs is said",
      }),
    )
    .action(async (directory: string, flags: { readonly json?: boolean }) => {
      const facts = [...(await probeHost(directory)), await qemuFact("qemu-img"), await qemuFact("qemu-system-x86_64")];
      if (flags.json) printJson({ directory, facts });
      else printLines(...factLines(facts));
      if (facts.some(({ ok }) => !ok)) process.exitCode = EXIT_FAULTS;
    });
}

function factLines(facts: readonly HostFact[]): string[] {
  const rows = columns(facts.map(({ ok, name, detail }) => [ok ? "ok" : "NO", name, detail]));
  return facts.flatMap(({ ok, hint }, index) => {
    const row = rows[index] ?? "";
    return ok || hint === undefined ? [row] : [row, `    ${hint}`];
  });
}

/** Whether a program of QEMU runs, and its version. */
async function qemuFact(program: string): Promise<HostFact> {
  const version = await new Promise<string | undefined>((resolve) => {
    execFile(program, ["--version"], (error, stdout) => {
      resolve(error === null ? /version (\S+)/.exec(stdout)?.[1] : undefined);
    });
  });
  if (version !== undefined) return { name: program, ok: true, detail: `version ${version}` };
  const hint = "not needed to work on images; without it nothing runs on them here and nobody else checks them";
  return { name: program, ok: false, detail: "not found on the PATH", hint };
}
