/** Clients and what they do, for people. */
import type { LoadSample, NbdClient } from "../api/index.ts";
import { columns } from "./output.ts";
import { formatSize } from "./units.ts";

export function clientsTable(clients: readonly NbdClient[]): string[] {
  if (clients.length === 0) return ["Nobody is connected"];
  const head = ["CLIENT", "SINCE", "NOW", "READS", "READ", "P50", "P99", "WRITES", "WRITTEN", "P99", "ERRORS"];
  const rows = clients.map((client) => [
    client.tls ? `${client.peer} (TLS)` : client.peer,
    timeOf(client.since),
    String(client.inFlight),
    String(client.reads),
    formatSize(client.readBytes),
    latency(client.readLatency.p50Us),
    latency(client.readLatency.p99Us),
    String(client.writes),
    formatSize(client.writtenBytes),
    latency(client.writeLatency.p99Us),
    String(client.errors),
  ]);
  return columns([head, ...rows]);
}

/** What guests do now, in a line. */
export function loadLine(load: LoadSample | undefined): string {
  if (load === undefined) return "guests: nothing just now";
  const { reads, readBytes, readP50Us, readP99Us, writes, writtenBytes, writeP99Us } = load;
  const parts: string[] = [];
  if (reads > 0 || readBytes > 0) {
    parts.push(`${reads} reads/s, ${formatSize(readBytes)}/s (p50 ${latency(readP50Us)}, p99 ${latency(readP99Us)})`);
  }
  if (writes > 0) parts.push(`${writes} writes/s, ${formatSize(writtenBytes)}/s (p99 ${latency(writeP99Us)})`);
  if (load.fetchedBytes > 0) parts.push(`${formatSize(load.fetchedBytes)}/s of that from the source`);
  return `guests: ${parts.join("; ") || "nothing just now"}`;
}

/** Of nothing there is none. */
export function latency(microseconds: number): string {
  if (microseconds === 0) return "-";
  if (microseconds < 1000) return `${microseconds} us`;
  const milliseconds = microseconds / 1000;
  return milliseconds < 1000
    ? `${Number(milliseconds.toPrecision(2))} ms`
    : `${Number((milliseconds / 1000).toPrecision(2))} s`;
}

/** In UTC, as all times that are shown. */
export function timeOf(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace("T", " ").slice(0, 19);
}
