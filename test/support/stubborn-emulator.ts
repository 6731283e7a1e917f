/**
 * A program that takes the place of QEMU and ends as QEMU 7.2 does at times: told to end (SIGTERM) it says so on its monitor, answers no more, and is
 * there until it gets a second signal.
 */
import { chmodSync, writeFileSync } from "node:fs";
import { GREETING } from "./fake-monitor.ts";

const PROGRAM = `
const { createServer } = require("node:net");
const { writeFileSync } = require("node:fs");
const after = (option) => process.argv[process.argv.indexOf(option) + 1];
const clients = [];
let ending = false;
process.on("SIGTERM", () => {
  if (ending) process.exit(0);
  ending = true;
  for (const client of clients) client.write('{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}');
});
const server = createServer((client) => {
  clients.push(client);
  client.write('${GREETING}');
  client.on("error", () => {}).setEncoding("utf8").on("data", (text) => {
    for (const line of text.split("\\n").filter(Boolean)) {
      const { execute, id } = JSON.parse(line);
      const answer = execute === "query-status" ? { status: "running", running: true } : [];
      if (!ending) client.write(JSON.stringify({ return: answer, id }));
    }
  });
});
server.listen(/path=(.*?),/.exec(after("-chardev"))[1], () => writeFileSync(after("-pidfile"), process.pid + "\\n"));
`;

/** Writes it there. @returns the path */
export function stubbornEmulator(path: string): string {
  writeFileSync(path, `#!${process.execPath}\n${PROGRAM}`);
  chmodSync(path, 0o755);
  return path;
}
