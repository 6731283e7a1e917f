import type { MapRun } from "../api/index.ts";
import { withDaemon } from "./daemon-link.ts";
import type { DaemonFlags } from "./daemon-options.ts";
import { printLines } from "./output.ts";

const HEADER = row("Offset", "Length", "State", "Mapped to", "Depth");

/** Prints where each range of a daemon's disk comes from, as `map` prints it of an image. */
export async function printDiskMap(disk: string, flags: DaemonFlags): Promise<void> {
  await withDaemon(flags, async (client) => {
    let begun = false;
    for await (const run of client.disk(disk).map()) {
      if (flags.json) process.stdout.write((begun ? ",\n" : "[") + JSON.stringify(run));
      else printLines(...(begun ? [] : [HEADER]), runRow(run));
      begun = true;
    }
    if (flags.json) process.stdout.write(begun ? "]\n" : "[]\n");
  });
}

function runRow({ start, length, depth, missing, data, offset }: MapRun): string {
  const state = missing ? "missing" : data ? "local" : "zero";
  const host = data && offset !== undefined ? hex(offset) : "-";
  return row(hex(start), hex(length), state, host, data ? String(depth) : "-");
}

function row(offset: string, length: string, state: string, host: string, depth: string): string {
  return `${offset.padEnd(16)}${length.padEnd(16)}${state.padEnd(9)}${host.padEnd(16)}${depth}`;
}

function hex(value: number): string {
  return value === 0 ? "0" : `0x${value.toString(16)}`;
}
