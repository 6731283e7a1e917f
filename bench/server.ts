/**
 * `streamdisk serve` against qemu-nbd and nbdkit, under the load of a client that costs little (`nbd-load.ts`), over a Unix socket.
 * The image is in the page cache, and every byte of it is there.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { must } from "./child.ts";
import { type Load, runLoad } from "./load.ts";
import { type Cells, median, ratio, type Section, type Sizes, type Target } from "./section.ts";
import { STREAMDISK, startServer } from "./served.ts";

type Format = "raw" | "qcow2" | "qed";
type Server = "streamdisk" | "qemu-nbd" | "nbdkit";

interface LoadRow {
  readonly name: string;
  readonly format: Format;
  readonly load: Pick<Load, "command" | "block" | "depth" | "order">;
  /** Requests a second as a multiple of the peer's. */
  readonly targets: Readonly<Partial<Record<Server, Target>>>;
}

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const small = (command: "read" | "write", depth: number) =>
  ({ command, block: 4 * KIB, depth, order: "random" }) as const;
const large = (command: "read" | "write") => ({ command, block: MIB, depth: 16, order: "sequential" }) as const;

const ROWS: readonly LoadRow[] = [
  { name: "raw-4k", format: "raw", load: small("read", 32), targets: { "qemu-nbd": [2.5, 3.5], nbdkit: [1.1, 1.5] } },
  { name: "raw-4k-depth-1", format: "raw", load: small("read", 1), targets: { "qemu-nbd": [1, 1.5] } },
  { name: "raw-1m-read", format: "raw", load: large("read"), targets: { "qemu-nbd": [1, 1.3] } },
  { name: "raw-1m-write", format: "raw", load: large("write"), targets: { "qemu-nbd": [1.5, 2.5] } },
  { name: "raw-4k-write", format: "raw", load: small("write", 32), targets: {} },
  { name: "qcow2-4k", format: "qcow2", load: small("read", 32), targets: { "qemu-nbd": [1.5, 3] } },
  { name: "qed-4k", format: "qed", load: small("read", 32), targets: { "qemu-nbd": [1.5, 3] } },
];

export function serverSection(directory: string, { runs = 3, size = 1024, seconds = 2 }: Sizes): Section {
  const bench = new ServerBench(directory, runs, size, seconds);
  return {
    name: "server",
    heading: "The NBD server",
    about: `An image of ${size} MiB, all of it written and in the page cache; ${runs} runs of ${seconds} s of each server, one connection.
Rows are requests a second, and the server's processor time for one (qcow2 and QED: qemu-nbd with the same format). The ratio is ours to
the peer's: **above 1 we are faster**.`,
    rows: ROWS.map((row) => ({ name: row.name, measure: () => bench.measure(row) })),
  };
}

interface Rate {
  readonly perSecond: number;
  readonly microseconds: number;
}

class ServerBench {
  readonly #directory: string;
  readonly #runs: number;
  readonly #size: number;
  readonly #seconds: number;

  constructor(directory: string, runs: number, size: number, seconds: number) {
    this.#directory = directory;
    this.#runs = runs;
    this.#size = size;
    this.#seconds = seconds;
  }

  async measure(row: LoadRow): Promise<Cells> {
    const path = this.#makeImage(row.format);
    const servers: readonly Server[] =
      row.format === "raw" ? ["streamdisk", "qemu-nbd", "nbdkit"] : ["streamdisk", "qemu-nbd"];
    const rates = new Map<Server, Rate[]>(servers.map((server) => [server, []]));
    for (let run = 0; run < this.#runs; run++) {
      for (const server of servers) rates.get(server)?.push(await this.#runOnce(server, path, row));
    }
    rmSync(path);
    const middle = (server: Server, field: keyof Rate): number =>
      median(rates.get(server)?.map((rate) => rate[field]) ?? []);
    const cells: Record<string, string> = { row: row.name };
    for (const server of servers) {
      cells[server] = `${Math.round(middle(server, "perSecond"))}/s ${middle(server, "microseconds").toFixed(1)} us`;
    }
    for (const peer of servers.slice(1)) {
      const value = middle("streamdisk", "perSecond") / middle(peer, "perSecond");
      cells[`against ${peer}`] = ratio(value, row.targets[peer]);
    }
    return cells;
  }

  /** An image of which every byte is there, at its place. */
  #makeImage(format: Format): string {
    const path = join(this.#directory, `disk.${format}`);
    must("qemu-img", "create", "-q", "-f", format, path, `${this.#size}M`);
    const writes: string[] = [];
    for (let at = 0; at < this.#size; at += 16) writes.push("-c", `write -q -P ${1 + (at % 251)} ${at}M 16M`);
    must("qemu-io", "-f", format, ...writes, path);
    must("sync");
    return path;
  }

  async #runOnce(server: Server, path: string, { format, load }: LoadRow): Promise<Rate> {
    const socket = join(this.#directory, "socket");
    await using serving = await startServer(commandOf(server, path, format, socket), socket);
    const whole = { ...load, socket, from: 0, to: this.#size * MIB };
    await runLoad({ ...whole, seconds: 0.7 });
    const before = serving.cpu();
    const { count, perSecond } = await runLoad({ ...whole, seconds: this.#seconds });
    return { perSecond, microseconds: ((serving.cpu() - before) * 1000) / count };
  }
}

function commandOf(server: Server, path: string, format: Format, socket: string): string[] {
  if (server === "qemu-nbd") return ["qemu-nbd", "-f", format, "-t", "-k", socket, path];
  if (server === "nbdkit") return ["nbdkit", "-f", "-U", socket, "file", path];
  return [...STREAMDISK, "serve", path, "--format", format, "--socket", socket];
}
