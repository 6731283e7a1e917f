import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { globSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { stripVTControlCharacters } from "node:util";
import { bootPartsBelow } from "../../src/cli/demo/boot/boot-parts.ts";
import { AptRepository } from "../support/apt-repository.ts";
import { assertFails, type CliOptions, cli, MAIN, peer, startCli, temporaryDirectory } from "../support/cli.ts";
import { sample } from "../support/seed.ts";

/** No process has it among its arguments or in its environment: daemon and machine have ended with the demo. */
function assertNobodyUses(directory: string): void {
  const using = globSync("/proc/[0-9]*/{cmdline,environ}").filter((path) => textIn(path).includes(`${directory}/`));
  assert.deepEqual(using.map(textIn), []);
}

function textIn(path: string): string {
  try {
    return readFileSync(path, "latin1").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

test("on a terminal a real machine runs from the slow image; the demo stays until q, and leaves nothing behind", async (t) => {
  const directory = temporaryDirectory(t);
  const child = spawn("script", ["-qec", `${process.execPath} ${MAIN} demo --dir ${directory}`, "/dev/null"], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, LC_ALL: "C.UTF-8" },
  });
  t.after(() => child.kill("SIGKILL"));
  const stays = Promise.withResolvers<void>();
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (more: string) => {
    text += more;
    if (text.includes("q or Ctrl-C ends it")) stays.resolve();
  });
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  await Promise.race([stays.promise, ended]);
  const [first = "", ...others] = Array.from(
    text.matchAll(/http:\/\/127\.0\.0\.1:\d+\/#token=[\w-]{43}/g),
    ([url]) => url,
  );
  assert.deepEqual(others, [first], `the address is said at the start and at the end:\n${text}`);
  const { origin, hash } = new URL(first);
  const headers = { authorization: `Bearer ${hash.replace("#token=", "")}` };
  const machine = await (await fetch(`${origin}/v1/domains/vm1`, { headers })).text();
  assert.match(machine, /"state":"running"/, "it is up again to be looked at");
  child.stdin.write("q");
  assert.equal(await ended, 0, text);
  const words = stripVTControlCharacters(text).replace(/\s+/g, " ");
  for (const expected of [
    /^streamdisk demo: .{1,90}#token=/,
    /A full copy first, to compare: .* and nothing has booted yet/,
    /qemu-system-x86_64 boots from it: kernel and busybox of this machine/,
    /The guest's console Its disk: █▒ here ░ not yet · zero/,
    /beat \d+ at \d+ MiB: written, right +[█▒░·]{32}/,
    /look \d+ at \d+ MiB: sum right/,
    /Its first line after [\d.]+ m?s/,
    /streamdisk deploy http:.*\.qcow2 --name vm1 --speed 1M/,
    /kill -9 of the daemon.* no request of it failed/,
    /The stream waits: The server of 'http:.*\.qcow2' could not be reached: ECONNREFUSED/,
    /The guest lives on in what it has: beats \d+ to \d+ meanwhile/,
    /every byte is what the image held or the guest wrote/,
    /qemu-img check: No errors were found/,
    /qemu-img compare: Images are identical/,
  ]) {
    assert.match(words, expected, text);
  }
  const lines = stripVTControlCharacters(text).split(/[\r\n]+/);
  assert.deepEqual(
    lines.filter((line) => line.trimEnd().length > 79),
    [],
  );
  await assert.rejects(fetch(new URL("/readyz", first)), "its daemon has ended");
  assert.deepEqual(readdirSync(directory), []);
  assertNobodyUses(directory);
});

interface Found {
  readonly [figure: string]: unknown;
  readonly "missing-bytes": number[];
}

async function found(args: readonly string[], options: CliOptions = {}): Promise<{ found: Found; kept: string }> {
  const end = await cli(["demo", "--json", "--keep", ...args], options);
  assert.equal(end.exit, 0, `${end.stdout}${end.stderr}`);
  const result = JSON.parse(end.stdout) as Found;
  const [before = 0, killed = 0, after] = result["missing-bytes"];
  assert.equal(result["failure"], undefined);
  assert.equal(result["verified-bytes"], result["virtual-size"]);
  assert(before > 0 && killed > 0 && after === 0, `${before}, ${killed} and ${after} bytes missing`);
  for (const figure of ["full-copy-ms", "first-line-ms", "outage-ms", "beats-without-source", "beats", "looks"]) {
    assert(Number(result[figure]) > 0, figure);
  }
  const [, kept = ""] = /'(.*)'/.exec(end.stderr) ?? [];
  return { found: result, kept };
}

test("without QEMU a client of the demo is the guest, and one line says how to have a machine", async (t) => {
  const directory = temporaryDirectory(t);
  const nothing = join(directory, "bin");
  mkdirSync(nothing);
  const { found: result, kept } = await found(["--format", "qed", "--dir", directory], { env: { PATH: nothing } });
  assert.deepEqual([result["guest"], result["qemu-img"], result["format"]], ["client", "not installed", "qed"]);
  assert.match(
    String(result["no-machine"]),
    /^There is no qemu-system-x86_64 on the PATH: 'apt install qemu-system-x86/,
  );
  const image = join(kept, "state/images/vm1-vda.qed");
  assert.doesNotMatch(peer("qemu-img", "info", "-f", "qed", image), /backing/);
});

/** As on a machine without a kernel of its own, whose packages come from a directory. @param offers whether that has any */
function withoutKernel(directory: string, offers: boolean): CliOptions {
  const parts = bootPartsBelow("/");
  assert(parts !== undefined);
  const repository = new AptRepository(directory);
  const modules = globSync(`${parts.modules}/**/*.{ko,builtin}`, { exclude: ["**/{net,fs,sound,arch,crypto,lib}/**"] });
  const kernel = [parts.kernel, ...modules].map((path) => [path.slice(1), readFileSync(path)] as const);
  if (offers) repository.offer(Object.fromEntries(kernel), { "bin/busybox": readFileSync(parts.busybox) });
  const hide = 'mount -t tmpfs none /boot && exec "$@"';
  const flags = process.getuid?.() === 0 ? ["-m"] : ["-m", "-r"];
  return { env: { APT_CONFIG: repository.config }, under: ["unshare", ...flags, "sh", "-c", hide, "sh"] };
}

const RUNS = [
  { format: "qcow2", kernel: "of this machine" },
  { format: "qed", kernel: "of this machine" },
  { format: "qcow2", kernel: "of packages" },
  { format: "qed", kernel: "from nowhere" },
] as const;

for (const { format, kernel } of sample("demo", RUNS, 0)) {
  test(`in a pipe, on ${format} and with a kernel ${kernel}, it says what it found, and keeps its images on request`, async (t) => {
    const directory = temporaryDirectory(t);
    const isHere = kernel === "of this machine";
    const options = isHere ? {} : withoutKernel(temporaryDirectory(t), kernel === "of packages");
    const { found: result, kept } = await found(["--format", format, "--dir", directory], options);
    assert.deepEqual([result["qemu-img"], result["format"]], ["agrees", format]);
    assert.equal(result["guest"], kernel === "from nowhere" ? "client" : "machine");
    if (kernel === "from nowhere")
      assert.match(String(result["no-machine"]), /^There is QEMU, but nothing to boot\. The pack/);
    const [image = "", expected = ""] = [`state/images/vm1-vda.${format}`, "expected.raw"].map((name) =>
      join(kept, name),
    );
    peer("qemu-img", "compare", "-q", "-f", format, "-F", "raw", image, expected);
    assert.equal(readdirSync(join(kept, "boot")).includes("root"), !isHere, "whether packages were wanted");
    assertNobodyUses(directory);
  });
}

type End = "Ctrl-C" | "the terminal is closed" | "the reader has seen enough";

const EXITS: Readonly<Record<End, number>> = {
  "Ctrl-C": 130,
  "the terminal is closed": 143,
  "the reader has seen enough": 141,
};

async function endAt(t: TestContext, line: RegExp, how: End): Promise<void> {
  const directory = temporaryDirectory(t);
  let address = "";
  const running = startCli(["demo", "--dir", directory], {
    onLine: (said) => {
      address ||= /http:\S+#token\S+/.exec(said)?.[0] ?? "";
      if (!line.test(said)) return;
      if (how === "Ctrl-C") running.child.kill("SIGINT");
      else if (how === "the terminal is closed") running.child.kill("SIGHUP");
      else running.child.stdout.destroy();
    },
  });
  const end = await running.ended;
  assert.equal(end.exit, EXITS[how], end.stderr);
  if (how === "Ctrl-C") assert.match(end.stderr, /^streamdisk: Interrupted by SIGINT\n$/);
  assert(!end.stdout.includes("\r") && !end.stdout.includes("\u001b"), "no bar in a pipe");
  await assert.rejects(fetch(new URL("/readyz", address)), "its daemon has ended");
  assert.deepEqual(readdirSync(directory), []);
  assertNobodyUses(directory);
}

const ENDS: readonly (readonly [RegExp, End])[] = [
  ...[/^1 {2}/, /boots from it/, /Its first line/, /^3 {2}/, /^4 {2}/, /The stream waits/, /^5 {2}/].map(
    (line) => [line, "Ctrl-C"] as const,
  ),
  [/Its first line/, "the terminal is closed"],
  [/Its first line/, "the reader has seen enough"],
];

for (const [line, how] of sample("demo ends", ENDS, 1)) {
  test(`${how} at ${line} ends the demo, its machine and its daemon, and nothing is left`, (t) => endAt(t, line, how));
}

test("a demo that has no place says so", async (t) => {
  const directory = temporaryDirectory(t);
  mkdirSync(join(directory, "a"));
  assertFails(await cli(["demo", "--dir", join(directory, "none")]), 66, join(directory, "none"));
});
