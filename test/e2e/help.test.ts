import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { buildProgram, COMMANDS } from "../../src/cli/program.ts";
import { ERROR_TABLE } from "../../src/errors/index.ts";
import { assertFails, cli, cliOk } from "../support/cli.ts";

const ROOT = join(import.meta.dirname, "../..");
const DOCS = readFileSync(join(ROOT, "docs/commands.md"), "utf8");

test("the help names every command, and costs no image code", async () => {
  const { stdout, stderr } = await cliOk(["--help"]);
  for (const [name, { summary }] of Object.entries(COMMANDS)) {
    assert.match(stdout, new RegExp(`^  ${name} .*${summary.split(" ")[0]}`, "m"));
  }
  assert.equal(stderr, "");
});

for (const name of Object.keys(COMMANDS)) {
  test(`the help of ${name} has an example and exit codes`, async () => {
    const { stdout } = await cliOk([name, "--help"]);
    assert.match(stdout, /^Usage: streamdisk /m);
    assert.match(stdout, new RegExp(`^Examples?:\\n(  .*streamdisk ${name})`, "m"));
    assert.match(stdout, /^Exit codes:\n +0 {2}\S/m);
    assert.match(stdout, /--json /);
  });
}

test("the help of each subcommand has an example and exit codes", async () => {
  const program = await buildProgram([], true);
  const parents = program.commands.filter(({ commands }) => commands.length > 0);
  assert.deepEqual(parents.map((parent) => parent.name()).sort(), ["daemon", "disk", "domain", "export", "source"]);
  for (const parent of parents) {
    for (const child of parent.commands) {
      const { stdout } = await cliOk([parent.name(), child.name(), "--help"]);
      assert.match(stdout, new RegExp(`^Examples?:\\n(  .*streamdisk ${parent.name()} ${child.name()})`, "m"));
      assert.match(stdout, /^Exit codes:\n +0 {2}\S/m);
      assert.match(stdout, /--json /);
    }
  }
});

test("'help COMMAND' is the same as 'COMMAND --help'", async () => {
  assert.equal((await cliOk(["help", "info"])).stdout, (await cliOk(["info", "--help"])).stdout);
});

test("the version is the package's", async () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  assert.equal((await cliOk(["--version"])).stdout, `${version}\n`);
});

test("wrong usage is exit code 64 and one line", async () => {
  const rows: [string[], RegExp][] = [
    [["inof", "vm.qcow2"], /unknown command 'inof'.*did you mean info/],
    [["info"], /missing required argument 'image'/],
    [["info", "a.qcow2", "b.qcow2"], /too many arguments/],
    [["info", "a.qcow2", "--jsno"], /unknown option '--jsno'.*did you mean --json/],
    [["info", "a.qcow2", "--format"], /--format.*argument missing/],
    [["info", "a.qcow2", "--format", "vmdk"], /'vmdk' is not a format.*raw, qcow2 or qed/],
    [["info", "vm1"], /No daemon answers at '\/nowhere\/daemon.sock'.*'streamdisk daemon'/],
    [["stream", "vm1"], /'streamdisk daemon'/],
    [["pause", "vm1"], /'streamdisk daemon'/],
    [["disk", "ls"], /'streamdisk daemon'/],
    [["disk", "lst"], /unknown command 'lst'/],
    [["disk", "resize", "a", "1Gb"], /'1Gb'.*bits/],
    [["stream", "vm1", "--step", "--base", "x.raw"], /'vm1' is a disk of the daemon.*'--base'/],
    [["stream", "a.qcow2", "--detach"], /'--detach' is for disks of the daemon/],
    [["daemon", "--bind", "127.0.0.1"], /'--bind' needs '--port'/],
    [["daemon", "--max-streams", "0"], /at least one stream/],
    [["daemon", "--config", "./none.json"], /none\.json/],
    [["rebase", "a.qcow2"], /--backing/],
    [["stream", "a.qcow2", "--step", "--speed", "1M"], /--step.*--speed|--speed.*--step/],
    [["stream", "a.qcow2", "--offset", "1M"], /'--step'/],
    [["stream", "a.qcow2", "--speed", "10Mbit"], /'10Mbit'.*bits/],
    [["stream", "a.qcow2", "--retry-for", "5"], /'5'.*30s/],
    [["check", "a.qcow2", "--repair", "all"], /'--repair all'.*leaks/],
    [["create", "vm", "1G"], /./],
    [["create", "./vm.img", "1G"], /--format/],
    [["create", "vm.qcow2", "1G", "-o", "=x"], /'-o =x'/],
    [["create", "vm.qcow2", "-5"], /'-5' is negative/],
    [["demo", "--format", "raw"], /raw image has no backing file/],
  ];
  for (const [args, words] of rows) {
    const end = await cli(args, { cwd: import.meta.dirname, env: { STREAMDISK_DAEMON: "/nowhere/daemon.sock" } });
    assertFails(end, exitOf(args), new RegExp(words, "i"));
  }
});

/** A disk in place of a new file; a daemon that is not there; a file that is not there. */
function exitOf([command, ...args]: readonly string[]): number {
  if (command === "create" && args.includes("vm")) return ERROR_TABLE.unsupported.exit;
  if (args.includes("./none.json")) return ERROR_TABLE["not-found"].exit;
  const asksDaemon = (args.at(-1) === "vm1" || args.at(-1) === "ls") && command !== "daemon";
  return asksDaemon ? ERROR_TABLE["source-lost"].exit : 64;
}

test("no command at all shows the help, as an error", async () => {
  const end = await cli([]);
  assert.equal(end.exit, 64);
  assert.match(end.stderr, /^Usage: streamdisk/);
});

test("the documentation has every command, option and error code", async () => {
  const program = await buildProgram([], true);
  for (const command of program.commands) {
    const title = `## ${command.name()}\n`;
    assert(DOCS.includes(title), title);
    const section = DOCS.slice(DOCS.indexOf(title)).split("\n## ")[0] ?? "";
    const all = [command, ...command.commands];
    for (const { long, short } of all.flatMap(({ options }) => options)) {
      for (const flag of [long, short]) {
        if (flag && flag !== "--json") assert(section.includes(`\`${flag}`), `${command.name()} ${flag}`);
      }
    }
  }
  for (const [code, { exit }] of Object.entries(ERROR_TABLE)) {
    assert.match(DOCS, new RegExp(`^\\| ${exit} \\|.*\`${code}\``, "m"), `${code} is exit code ${exit}`);
  }
});
