import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { FakeVirsh } from "../../../test/support/fake-virsh.ts";
import { withFewFiles } from "../../../test/support/few-files.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { QmpClient } from "../qmp/client.ts";
import { qmpFailure } from "../qmp/qmp-error.ts";
import { LibvirtDomain } from "./libvirt-domain.ts";

const STATUS = `echo '{"return":{"status":"running","running":true},"id":"libvirt-7"}'; echo`;
const QUIET = "exec sleep 60";
const CONNECT = "qemu+unix:///session?socket=/run/x";

async function withClient(
  cases: Readonly<Record<string, string>>,
  work: (client: QmpClient, virsh: FakeVirsh) => Promise<void>,
  timeoutMs?: number,
): Promise<void> {
  using virsh = new FakeVirsh({ "qemu-monitor-event": QUIET, ...cases });
  const domain = new LibvirtDomain({ name: "--web vm", connect: CONNECT });
  using client = new QmpClient(domain.monitor, { timeoutMs });
  await work(client, virsh);
}

test("a command goes through virsh, and what is said outside stands where it can't be an option", async () => {
  await withClient({ "qemu-monitor-command": STATUS }, async (client, virsh) => {
    const statuses = await Promise.all([1, 2, 3].map(() => client.execute("query-status", {})));
    assert.deepEqual(statuses, ["running", "running", "running"]);
    const commands = virsh.calls.filter((call) => call[2] === "qemu-monitor-command");
    const json = '{"execute":"query-status","arguments":{}}';
    const args = ["--quiet", `--connect=${CONNECT}`, "qemu-monitor-command", "--", "--web vm", json];
    assert.deepEqual(commands, [args, args, args]);
    assert.equal(client.name, `--web vm of ${CONNECT}`);
  });
});

test("what QEMU refuses is told from what virsh does", async () => {
  const refusal = `echo '{"id":"libvirt-7","error":{"class":"DeviceNotFound","desc":"no such"}}'`;
  await withClient({ "qemu-monitor-command": refusal }, async (client, virsh) => {
    for (let i = 0; i < 2; i++) {
      await assert.rejects(client.execute("job-dismiss", { id: "x" }), (error: Error & { code: string }) => {
        assert.equal(error.code, "not-found");
        assert.equal(qmpFailure(error)?.desc, "no such");
        return true;
      });
    }
    assert.equal(virsh.calls.filter((call) => call[2] === "qemu-monitor-event").length, 1, "the link lasts");
  });
});

const COMPLAINTS: Readonly<Record<string, readonly [code: string, operation: string, message: RegExp]>> = {
  "error: Requested operation is not valid: domain is not running": [
    ...(["shutdown", "qemu-monitor-command"] as const),
    /'--web vm of qemu\+unix:.*': it does not run. Start it: virsh start \(Requested operation/,
  ],
  "error: Disconnected from x due to end of file\nerror: failed to get domain '--web vm'\nerror: client socket is closed":
    [...(["shutdown", "connect"] as const), /libvirt does not answer there/],
  "error: failed to get domain '--web vm'": ["not-found", "qemu-monitor-command", /there is no such domain/],
  "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/x': No such file or directory":
    [
      ...(["shutdown", "connect"] as const),
      /libvirt does not answer there \(failed to connect to the hypervisor; Failed to connect socket to '\/run\/x'/,
    ],
  "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/x': Permission denied": [
    ...(["permission", "connect"] as const),
    /libvirt does not let us/,
  ],
  "error: Timed out during operation: cannot acquire state change lock (held by monitor=x)": [
    ...(["in-use", "connect"] as const),
    /libvirt is busy with it/,
  ],
  "error: internal error: qemu unexpectedly closed the monitor": [
    ...(["shutdown", "qemu-monitor-command"] as const),
    /its QEMU has ended/,
  ],
  "error: something else": ["io", "qemu-monitor-command", /virsh failed \(something else\)/],
  "": ["io", "qemu-monitor-command", /virsh failed$/],
};

test("what virsh complains of", async () => {
  for (const [said, [code, operation, message]] of Object.entries(COMPLAINTS)) {
    const act = `printf '%s\\n' "${said}" >&2; exit 1`;
    await withClient({ "qemu-monitor-command": act }, async (client) => {
      await assert.rejects(
        client.execute("query-status", {}),
        (error: Error & { code: string; context: { operation: string } }) => {
          assert.deepEqual([error.code, error.context.operation], [code, operation]);
          assert.match(error.message, message);
          return true;
        },
      );
    });
  }
});

const WRONG: Readonly<Record<string, string>> = {
  "prints nothing": ":",
  "prints no JSON": "echo hello",
  "prints two answers": `${STATUS}; ${STATUS}`,
  "prints what is no answer": 'echo \'{"event":"STOP"}\'',
  "prints an error that is none": "echo '{\"error\":7}'",
  "prints an answer that is cut off": `echo '{"return":{"status":'`,
  "prints without an end": "exec cat /dev/zero",
  "prints objects without an end": `exec yes '{"a":'`,
};

for (const [what, act] of Object.entries(WRONG)) {
  test(`a virsh that ${what} is an error, and the next command is run`, async () => {
    const once = `if [ -e "\${0%virsh}again" ]; then ${STATUS}; else : >"\${0%virsh}again"; ${act}; fi`;
    await withClient({ "qemu-monitor-command": once }, async (client) => {
      await assert.rejects(client.execute("query-status", {}), { code: "protocol" });
      assert.equal(await client.execute("query-status", {}), "running");
    });
  });
}

test("a virsh that complains without an end is cut short", async () => {
  await withClient({ "qemu-monitor-command": "yes complaint | head -c 1000000 >&2; exit 1" }, async (client) => {
    await assert.rejects(client.execute("query-status", {}), (error: Error) => {
      assert.ok(error.message.length < 10_000, `${error.message.length}`);
      return true;
    });
  });
});

/** What a fake notes as its process. */
const NOTED = `echo $$ >"\${0%virsh}pid"`;

async function mustEnd({ directory }: FakeVirsh): Promise<void> {
  const pid = Number(readFileSync(join(directory, "pid"), "utf8"));
  assert.ok(pid > 1);
  while (existsSync(`/proc/${pid}`)) await sleep(20);
}

test("a virsh that takes too long is ended", async () => {
  const act = async (client: QmpClient, virsh: FakeVirsh): Promise<void> => {
    await assert.rejects(client.execute("query-status", {}), { code: "io", message: /took more than 1 s/ });
    await mustEnd(virsh);
  };
  await withClient({ "qemu-monitor-command": `${NOTED}; ${QUIET}` }, act, 1000);
});

test("the signal ends waiting", async () => {
  await withClient({ "qemu-monitor-command": QUIET }, async (client) => {
    const stop = new AbortController();
    const running = client.execute("query-status", {}, { signal: stop.signal });
    stop.abort(new Error("enough"));
    await assert.rejects(running, /enough/);
  });
});

test("events come by a process of their own, whatever else it prints", async () => {
  const lines = [
    "nonsense",
    "event STOP at 1795918684.477986 for domain '--web vm': <null>",
    `event BLOCK_IO_ERROR at 1795918684.477986 for domain 'a': {"device":"': {"}`,
    "event BAD at 1795918684.477986 for domain 'a': {nonsense}",
    'event SHUTDOWN at 1795918684.477986 for domain \'--web vm\': {"guest":false,"reason":"host-signal"}',
  ];
  const act = `cat "\${0%virsh}events"; ${QUIET}`;
  using virsh = new FakeVirsh({ "qemu-monitor-command": STATUS, "qemu-monitor-event": act });
  writeFileSync(join(virsh.directory, "events"), `${lines.join("\n")}\n`);
  using client = new QmpClient(new LibvirtDomain({ name: "web", connect: CONNECT }).monitor);
  const heard: string[] = [];
  const over = new Promise<void>((resolve) => {
    client.onEvent(({ name }) => {
      heard.push(name);
      if (name === "SHUTDOWN") resolve();
    });
  });
  await client.execute("query-status", {});
  await over;
  assert.deepEqual(heard, ["STOP", "BLOCK_IO_ERROR", "SHUTDOWN"]);
  assert.equal(client.shutdownReason, "host-signal");
});

test("events that end for no reason end nothing; a libvirt that is gone ends the link, and is connected to again", async () => {
  const gone = `until [ -e "\${0%virsh}gone" ]; do sleep 0.05; done; rm "\${0%virsh}gone"; echo "error: client socket is closed" >&2; exit 1`;
  using virsh = new FakeVirsh({ "qemu-monitor-command": STATUS, "qemu-monitor-event": gone });
  using client = new QmpClient(new LibvirtDomain({ name: "web", connect: CONNECT }).monitor);
  await client.execute("query-status", {});
  const changed = client.change(1e9);
  writeFileSync(join(virsh.directory, "gone"), "");
  await changed;
  await client.execute("query-status", {});
  const of = (command: string): number => virsh.calls.filter((call) => call[2] === command).length;
  while (of("qemu-monitor-event") < 2) await sleep(20);
  assert.equal(of("qemu-monitor-command"), 2);

  using _quiet = new FakeVirsh({ "qemu-monitor-command": STATUS, "qemu-monitor-event": "exit 1" });
  using other = new QmpClient(new LibvirtDomain({ name: "web", connect: CONNECT }).monitor);
  for (let i = 0; i < 5; i++) await other.execute("query-status", {});
  assert.equal(_quiet.calls.filter((call) => call[2] === "qemu-monitor-event").length, 1);
});

test("closing ends the process of events", async () => {
  const act = `${NOTED}; ${QUIET}`;
  await withClient({ "qemu-monitor-command": STATUS, "qemu-monitor-event": act }, async (client, virsh) => {
    await client.execute("query-status", {});
    while (!existsSync(join(virsh.directory, "pid"))) await sleep(20);
    client[Symbol.dispose]();
    await mustEnd(virsh);
    await assert.rejects(client.execute("query-status", {}), { code: "shutdown" });
  });
});

test("a machine without virsh says which package has it", async () => {
  using virsh = new FakeVirsh({});
  process.env.PATH = join(virsh.directory, "nothing");
  using client = new QmpClient(new LibvirtDomain({ name: "web" }).monitor);
  await assert.rejects(client.execute("query-status", {}), { code: "unsupported", message: /libvirt-clients/ });
});

test("a virsh that can't be started for want of files is an error, and ends nobody else", async () => {
  using _virsh = new FakeVirsh({});
  await withFewFiles(`
    import { QmpClient } from "${import.meta.resolve("../qmp/client.ts")}";
    import { LibvirtDomain } from "${import.meta.resolve("./libvirt-domain.ts")}";
    using client = new QmpClient(new LibvirtDomain({ name: "web" }).monitor);
    fill(0);
    await assert.rejects(client.execute("query-status", {}), { code: "io", message: /run 'virsh'.*EMFILE/ });
  `);
});

test("events are waited for again when none has come for long, which is a failure to virsh", async () => {
  const quiet = `cd "$(dirname "$0")"; until [ -e quiet ]; do sleep 0.02; done; rm quiet; exit 1`;
  using virsh = new FakeVirsh({ "qemu-monitor-command": STATUS, "qemu-monitor-event": quiet });
  const clock = new ManualClock();
  using client = new QmpClient(new LibvirtDomain({ name: "web", connect: CONNECT }).monitor, { clock });
  await client.execute("query-status", {});
  const rounds = (): number => virsh.calls.filter((call) => call[2] === "qemu-monitor-event").length;
  for (let round = 1; round < 3; round++) {
    while (rounds() < round) await sleep(20);
    await clock.advance(600_000);
    writeFileSync(join(virsh.directory, "quiet"), "");
  }
  while (rounds() < 3) await sleep(20);
  assert.ok(client.isConnected);
});

test("an event that is not understood ends the link, which is made again", async () => {
  const line = `event SHUTDOWN at 1.0 for domain 'web': {"reason":7}`;
  const once = `cd "$(dirname "$0")"; [ -e told ] || echo "${line.replaceAll('"', '\\"')}"; : >told; ${QUIET}`;
  using virsh = new FakeVirsh({ "qemu-monitor-command": STATUS, "qemu-monitor-event": once });
  using client = new QmpClient(new LibvirtDomain({ name: "web", connect: CONNECT }).monitor);
  do {
    await client.execute("query-status", {}).catch((error) => assert.match(error.message, /SHUTDOWN.* not understood/));
  } while (virsh.calls.filter((call) => call[2] === "qemu-monitor-event").length < 2);
  assert.equal(await client.execute("query-status", {}), "running");
});

test("names and URIs that mean something else are refused", () => {
  for (const name of ["", "7", "a/b", "a\nb", "x".repeat(256)]) {
    assert.throws(() => new LibvirtDomain({ name, connect: CONNECT }), { code: "invalid-argument" }, name);
  }
  for (const connect of [
    ...[
      "",
      "-x",
      "qemu+ssh://host/system",
      "qemu+ext:///system?command=/bin/sh",
      "test:///default",
      "qemu:///embed?root=/x",
    ],
    ...["qemu+unix:///system?socket=/x&command=y", "qemu:///system?socket=x", "qemu://host/system", "lxc:///system"],
    ...["qemu:///system\nx", `qemu+unix:///system?socket=/${"x".repeat(600)}`],
  ]) {
    assert.throws(() => new LibvirtDomain({ name: "web", connect }), { code: "refused" }, connect);
  }
});

test("the state of a domain, and one that is not there", async () => {
  using _virsh = new FakeVirsh({ domstate: "echo 'shut off'; echo" });
  assert.equal(await new LibvirtDomain({ name: "web", connect: CONNECT }).state(), "shut off");
  using _other = new FakeVirsh({ domstate: `echo "error: failed to get domain 'web'" >&2; exit 1` });
  assert.equal(await new LibvirtDomain({ name: "web", connect: CONNECT }).state(), "gone");
});
