/** The programs of `examples/live`, which need a daemon or a machine; those beside them are run with the documentation. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { globSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { after, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Workshop } from "../rules/doc-examples.ts";
import { noise } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import { directoryWithMachines } from "../support/machine.ts";
import { qemuImg } from "../support/qemu.ts";
import { startQemuDisk } from "../support/qemu-disk.ts";

const ROOT = join(import.meta.dirname, "../..");
const MIB = 2 ** 20;
const LONGEST = 40;

const workshop = new Workshop();
after(() => workshop[Symbol.dispose]());

interface Running {
  readonly said: () => string;
  /** Resolves when it has said that. */
  readonly says: (what: RegExp) => Promise<void>;
  readonly ended: Promise<{ readonly exit: number | null; readonly said: string }>;
  readonly kill: () => void;
}

/** Starts an example as its reader would. */
function start(t: TestContext, name: string, args: readonly string[], env: Readonly<Record<string, string>>): Running {
  const code = readFileSync(join(ROOT, `examples/live/${name}.ts`), "utf8");
  const path = workshop.write(name, { language: "ts", line: 1, runs: true, code });
  const cwd = workshop.directoryFor(name);
  const child = spawn(process.execPath, [path, ...args], { cwd, env: { ...process.env, ...env } });
  t.after(() => child.kill("SIGKILL"));
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  }
  const ended = once(child, "close").then(([exit]) => ({ exit: exit as number | null, said }));
  const says = async (what: RegExp): Promise<void> => {
    while (!what.test(said)) {
      assert.equal(child.exitCode, null, said);
      await sleep(50);
    }
  };
  return { said: () => said, says, ended, kill: () => child.kill("SIGKILL") };
}

async function run(
  t: TestContext,
  name: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  const { exit, said } = await start(t, name, args, env).ended;
  assert.equal(exit, 0, said);
  return said;
}

async function daemonWithBase(t: TestContext) {
  const directory = directoryWithMachines(t, "state/machines", () => daemon[Symbol.asyncDispose]());
  const daemon = new DaemonProcess(directory, ["--accelerator", "tcg"]);
  await daemon.start();
  const base = join(daemon.images, "base.raw");
  writeFileSync(base, noise(4 * MIB, 3));
  return { daemon, base };
}

const TESTS: Readonly<Record<string, (t: TestContext) => Promise<void>>> = {
  "deploy-and-wait": async (t) => {
    const { daemon, base } = await daemonWithBase(t);
    const said = await run(t, "deploy-and-wait", [base, "vm1", "-m", "64"], daemon.env);
    assert.match(said, /^machine: \d+ ms$.*^vm1 runs on (\S+vm1-vda\.qcow2)$.*^vm1 stands alone: '.*' may go$/ms);
    const { state } = await daemon.client.call("getDomain", { params: { domain: "vm1" } });
    assert.equal(state, "running");
    const query = { keepDisk: true, force: true };
    await daemon.client.call("undeploy", { params: { deployment: "vm1" }, query });
    const image = join(daemon.state, "images/vm1-vda.qcow2");
    qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", image, base);
    assert.doesNotMatch(qemuImg("info", image), /backing/);
  },
  "stream-existing-vm": async (t) => {
    const { directory, image, expected, qemu, source } = await startQemuDisk(t, { format: "qcow2" });
    const said = await run(t, "stream-existing-vm", [join(directory, "qmp"), "vda"]);
    assert.match(said, /^vda virtio-disk0 \{ kind: 'file'.*^vda: 15.875 MiB are missing.*^vda stands alone$/ms);
    await qemu.kill();
    await source.stop();
    rmSync(join(directory, "base.raw"));
    qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", image, expected);
  },
  "step-by-cron": async (t) => {
    const { daemon, base } = await daemonWithBase(t);
    const body = { name: "vm1", backing: base, backingFormat: "raw" } as const;
    await daemon.client.call("createDisk", { body });
    const once = () => run(t, "step-by-cron", ["vm1", "3"], daemon.env);
    assert.equal(await once(), "vm1: 3145728 bytes fetched, to go on at 3145728\n");
    assert.match(await once(), /^vm1 stands alone/m);
    assert.equal((await daemon.client.disk("vm1").info()).hydrated, true);
  },
  "react-to-events": async (t) => {
    const { daemon, base } = await daemonWithBase(t);
    const first = start(t, "react-to-events", [], daemon.env);
    const create = (name: string) => {
      const body = { name, backing: base, backingFormat: "raw", stream: true } as const;
      return daemon.client.call("createDisk", { body });
    };
    await create("vm1");
    await first.says(/^DONE vm1 needs its source no more\nFREE .*base\.raw may be switched off$/m);
    first.kill();
    await first.ended;
    await create("vm2");
    const second = start(t, "react-to-events", [], daemon.env);
    await second.says(/^DONE vm2 .*\nFREE /m);
    assert.doesNotMatch(second.said(), /DONE vm1/);
    second.kill();
    await second.ended;
  },
};

for (const path of globSync("examples/live/*.ts", { cwd: ROOT })) {
  const name = basename(path, ".ts");
  test(path, (t) => {
    assert(TESTS[name] !== undefined, "it has no test");
    return TESTS[name](t);
  });
}

test("every example is short", () => {
  const long = globSync("examples/**/*.ts", { cwd: ROOT }).filter(
    (path) => readFileSync(join(ROOT, path), "utf8").split("\n").length > LONGEST,
  );
  assert.deepEqual(long, []);
});
