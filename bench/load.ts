/** Load on an NBD server, from a process of its own (`nbd-load.ts`). */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

export interface Load {
  readonly socket: string;
  readonly command: "read" | "write";
  /** Bytes of a request. */
  readonly block: number;
  /** Requests under way. */
  readonly depth: number;
  /** `once`: a block somewhere in each unit, the units in random order, each once. */
  readonly order: "random" | "sequential" | "once";
  /** Bytes from here to there. */
  readonly from: number;
  readonly to: number;
  /** @default block */
  readonly unit?: number;
  /** Absent: as long as there is something to ask for, which is for ever but for `once`. */
  readonly seconds?: number;
  /** Whether the data is that of nbdkit's pattern plugin, and is looked at. */
  readonly pattern?: boolean;
}

export interface LoadResult {
  readonly count: number;
  readonly perSecond: number;
  /** Latencies in milliseconds. */
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly most: number;
}

const PROGRAM = join(import.meta.dirname, "nbd-load.ts");

export async function runLoad(load: Load): Promise<LoadResult> {
  const client: ChildProcess = spawn(process.execPath, [PROGRAM, JSON.stringify(load)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  client.stdout?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const [code] = (await once(client, "close")) as [number | null];
  if (code !== 0) throw new Error("The load on the server ended early");
  return JSON.parse(said) as LoadResult;
}
