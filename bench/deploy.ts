/**
 * A machine from a central image: `streamdisk deploy`, against what is done without it: the whole image copied first (nbdcopy), or an
 * overlay with QEMU's copy-on-read and its block-stream. The guest is a real one, under QEMU's emulation (`deploy-guest.sh`).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { bootArguments } from "../src/cli/demo/boot/initramfs.ts";
import { type BootFiles, bootXml } from "../test/support/guest/initramfs.ts";
import { LiveQemu } from "../test/support/qemu.ts";
import { must } from "./child.ts";
import { GuestConsole, guestFiles, MEMORY_MIB } from "./deploy-guest.ts";
import { Images } from "./images.ts";
import { type Cells, mebibytes, median, type Section, type Sizes, seconds } from "./section.ts";
import { STREAMDISK, startServer } from "./served.ts";

interface Line {
  /** Milliseconds until an answer. */
  readonly delay: number;
  /** Megabits a second. */
  readonly rate: number;
}

type Side = "deploy" | "engine" | "QEMU" | "copy";
const SIDES: readonly Side[] = ["deploy", "engine", "QEMU", "copy"];

const LINES: readonly Line[] = [640, 100].flatMap((rate) => [0, 5, 20, 50].map((delay) => ({ delay, rate })));
/** The machines of a storm, and where their image is. */
const STORM = 8;
const STORM_LINE: Line = { delay: 5, rate: 640 };
const POLL_MS = 20;
const LONGEST_MS = 600_000;

interface Figures {
  /** Seconds from the command to the guest's first line, and until the disk needs its source no more. */
  readonly first: number;
  readonly hydrated: number;
  /** Milliseconds of a guest's read of local data during the fill and after it; NaN when there was no whole round of them. */
  readonly during: number;
  readonly after: number;
  /** Bytes that the source gave. */
  readonly fetched: number;
}

export function deploySection(directory: string, { runs = 1, size = 1024 }: Sizes): Section {
  const bench = new DeployBench(directory, runs, size);
  return {
    name: "deploy",
    optIn: true,
    heading: "A machine from a central image",
    about: `An NBD export (nbdkit) of ${size} MiB, half of it holes, that answers late and gives at most so many megabits a second; a Linux guest under
QEMU's emulation, which reads 12 MiB of its disk, from all over it, before its first line. Runs: ${runs}. \`deploy\` is \`streamdisk deploy\` at a daemon
that runs, with the disk QEMU's own, \`engine\` the same with \`--owner engine\`; \`QEMU\` an overlay with QEMU's copy-on-read and block-stream;
\`copy\` nbdcopy first and the machine then. Times are from the command, in seconds: to the guest's first line, and until the source is needed
no more. Reads are the guest's own, 4 KiB of local data one after the other, during the fill and after it. In a storm ${STORM} machines are started
at once, by one daemon: times are those of the last.`,
    rows: [
      ...LINES.map((line) => {
        const name = `deploy-${line.delay}ms-${line.rate}M`;
        return { name, measure: () => bench.measure(name, line) };
      }),
      { name: "storm", measure: () => bench.storm("storm", STORM_LINE) },
    ],
  };
}

class DeployBench {
  readonly #directory: string;
  readonly #runs: number;
  readonly #images: Images;
  #files: BootFiles | undefined;

  constructor(directory: string, runs: number, size: number) {
    this.#directory = directory;
    this.#runs = runs;
    this.#images = new Images(directory, size);
  }

  get #source(): string {
    return join(this.#directory, "source");
  }

  async measure(row: string, line: Line): Promise<Cells> {
    const all = await this.#runAll(line, 1);
    const cells: Record<string, string> = { row };
    const middle = (side: Side, field: keyof Figures): number => median(all[side].map((figures) => figures[field]));
    for (const side of SIDES) {
      cells[`${side}: first`] = seconds(middle(side, "first"));
      cells[`${side}: whole`] = seconds(middle(side, "hydrated"));
      cells[`${side}: fetched`] = mebibytes(middle(side, "fetched"));
      if (side !== "copy") cells[`${side}: reads`] = readTimes(middle(side, "during"), middle(side, "after"));
    }
    cells["copy's first to ours"] = (middle("copy", "first") / middle("deploy", "first")).toFixed(2);
    cells["QEMU's whole to ours"] = (middle("QEMU", "hydrated") / middle("deploy", "hydrated")).toFixed(2);
    return cells;
  }

  async storm(row: string, line: Line): Promise<Cells> {
    const all = await this.#runAll(line, STORM);
    const cells: Record<string, string> = { row };
    for (const side of SIDES) {
      const middle = (field: keyof Figures): number => median(all[side].map((figures) => figures[field]));
      cells[`${side}: first`] = seconds(middle("first"));
      cells[`${side}: whole`] = seconds(middle("hydrated"));
      cells[`${side}: fetched`] = mebibytes(middle("fetched"));
    }
    return cells;
  }

  async #runAll(line: Line, machines: number): Promise<Record<Side, Figures[]>> {
    this.#images.makeSource("holes.raw");
    this.#files ??= guestFiles(this.#directory);
    const all: Record<Side, Figures[]> = { deploy: [], engine: [], QEMU: [], copy: [] };
    for (let run = 0; run < this.#runs; run++) {
      for (const side of SIDES) all[side].push(await this.#runOnce(side, line, machines));
    }
    return all;
  }

  async #runOnce(side: Side, line: Line, machines: number): Promise<Figures> {
    const directory = join(this.#directory, "run");
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory);
    const log = join(directory, "source.log");
    const figures = await this.#withSource(line, log, async () => {
      if (side === "deploy" || side === "engine") return this.#withDaemon(directory, machines, side);
      return together(machines, (at) => this.#withoutDaemon(side, join(directory, String(at))));
    });
    return { ...figures, fetched: bytesRead(log) };
  }

  async #withSource<T>({ delay, rate }: Line, log: string, act: () => Promise<T>): Promise<T> {
    const filters = ["log", "delay", "rate"].map((name) => `--filter=${name}`);
    const limits = [
      `logfile=${log}`,
      `delay-read=${delay}ms`,
      `delay-extents=${delay}ms`,
      `rate=${rate}M`,
      "burstiness=0.1",
    ];
    const command = ["nbdkit", "-f", "-r", "-t", "64", "-U", this.#source, ...filters, "file"];
    await using _source = await startServer([...command, this.#images.path("holes.raw"), ...limits], this.#source);
    return await act();
  }

  get #uri(): string {
    return `nbd+unix:///?socket=${this.#source}`;
  }

  async #withDaemon(directory: string, machines: number, side: "deploy" | "engine"): Promise<Omit<Figures, "fetched">> {
    const socket = join(directory, "daemon.sock");
    const place = ["--state-directory", directory, ...this.#allowed];
    const daemon = [...STREAMDISK, "daemon", ...place, "--max-streams", String(machines), "--log-level", "error"];
    await using _daemon = await startServer(daemon, socket);
    const owner = side === "deploy" ? "qemu" : "engine";
    return await together(machines, async (at) => {
      const name = `vm${at}`;
      const serial = join(directory, `${name}.log`);
      const xml = join(directory, `${name}.xml`);
      writeFileSync(xml, this.#machineXml(name, serial));
      const flags = ["--image-format", "raw", "--owner", owner, "--xml", xml, "--wait", "hydrated"];
      const order = ["deploy", this.#uri, "--name", name, ...flags, "--json", "--daemon", socket];
      const undeploy = ["undeploy", name, "--force", "--json", "--daemon", socket];
      try {
        return await this.#time(serial, () => ended(begin([...STREAMDISK, ...order])));
      } finally {
        // A machine outlives its daemon. Where none was made, why is told already.
        await ended(begin([...STREAMDISK, ...undeploy])).catch(() => {});
      }
    });
  }

  get #allowed(): string[] {
    return [this.#uri, this.#directory, dirname(this.#files!.kernel)].flatMap((place) => ["--allow", place]);
  }

  async #withoutDaemon(side: "QEMU" | "copy", directory: string): Promise<Omit<Figures, "fetched">> {
    mkdirSync(directory);
    const serial = join(directory, "console.log");
    const image = join(directory, side === "QEMU" ? "vm.qcow2" : "vm.raw");
    const qemus: LiveQemu[] = [];
    try {
      return await this.#time(serial, async () => {
        if (side === "copy") {
          await ended(begin(["nbdcopy", this.#uri, image]));
          await this.#boot(serial, `file=${image},format=raw,if=virtio,cache=none`, qemus);
          return;
        }
        must("qemu-img", "create", "-q", "-f", "qcow2", "-b", this.#uri, "-F", "raw", image);
        const drive = `file=${image},format=qcow2,if=virtio,cache=none,copy-on-read=on,id=disk,discard=unmap`;
        const qemu = await this.#boot(serial, drive, qemus);
        await qemu.execute("block-stream", { "job-id": "stream", device: "disk" });
        while (((await qemu.execute("query-block-jobs")) as unknown[]).length > 0) await sleep(POLL_MS);
      });
    } finally {
      for (const qemu of qemus) await qemu.kill();
    }
  }

  /** How long it takes to the guest's first line and to the end of what was begun; and the guest's reads meanwhile. */
  async #time(serial: string, fill: () => Promise<void>): Promise<Omit<Figures, "fetched">> {
    const console = new GuestConsole(serial);
    const start = performance.now();
    const took = (): number => (performance.now() - start) / 1000;
    const whole = fill().then(took);
    const [hydrated, first] = await Promise.all([whole, console.first(LONGEST_MS).then(took)]);
    const rounds = console.rounds;
    // The first of them that is surely after the fill, and one more.
    while (console.rounds < rounds + 3) await sleep(POLL_MS);
    const during = hydrated > first ? median(console.reads(0, rounds)) : Number.NaN;
    return { first, hydrated, during, after: median(console.reads(rounds + 1)) };
  }

  async #boot(serial: string, drive: string, started: LiveQemu[]): Promise<LiveQemu> {
    const { kernel, initramfs } = this.#files!;
    const qemu = new LiveQemu("qemu-system-x86_64", [
      ...["-machine", "pc", "-accel", "tcg", "-m", String(MEMORY_MIB), "-nodefaults", "-display", "none"],
      ...["-serial", `file:${serial}`, ...bootArguments(kernel, initramfs), "-drive", drive, "-qmp", "stdio"],
    ]);
    started.push(qemu);
    await qemu.greet();
    return qemu;
  }

  #machineXml(name: string, serial: string): string {
    return `<domain type='qemu'>
  <name>${name}</name>
  <memory unit='MiB'>${MEMORY_MIB}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    ${bootXml(this.#files!)}
  </os>
  <devices>
    <serial type='file'><source path='${serial}'/></serial>
  </devices>
</domain>
`;
  }
}

/** Several at once: the times of the last. */
async function together(
  machines: number,
  one: (at: number) => Promise<Omit<Figures, "fetched">>,
): Promise<Omit<Figures, "fetched">> {
  const all = await Promise.all(Array.from({ length: machines }, (_, at) => one(at)));
  const last = (field: "first" | "hydrated"): number => Math.max(...all.map((figures) => figures[field]));
  const middle = (field: "during" | "after"): number => median(all.map((figures) => figures[field]));
  return { first: last("first"), hydrated: last("hydrated"), during: middle("during"), after: middle("after") };
}

function begin([program = "", ...args]: readonly string[]): ChildProcess {
  return spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
}

async function ended(child: ChildProcess): Promise<void> {
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  if (code !== 0) throw new Error(`${child.spawnargs.join(" ")} ended with ${code ?? signal}: ${said}`);
}

/** What a log of nbdkit's (nbdkit-log-filter(1)) says was read. */
function bytesRead(log: string): number {
  const reads = readFileSync(log, "latin1").matchAll(/ Read id=\d+ offset=\S+ count=(0x[0-9a-f]+)/g);
  return [...reads].reduce((sum, [, count]) => sum + Number(count), 0);
}

function readTimes(during: number, after: number): string {
  const told = (value: number): string => (Number.isNaN(value) ? "-" : value.toFixed(2));
  return `${told(during)}, ${told(after)} ms`;
}
