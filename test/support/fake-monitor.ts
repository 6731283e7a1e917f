/** A QMP monitor that does what the test says, right or wrong. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const GREETING = '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}';

/** A command as the client sent it. */
export interface SentCommand {
  readonly execute: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  readonly id: number;
}

export interface FakeMonitorOptions {
  /** Sent to who connects; undefined for nothing. @default GREETING */
  readonly greeting?: string | undefined;
  /** Called with each that connects. */
  readonly connected?: (socket: Socket) => void;
  /** Called with each command but qmp_capabilities, which is answered. */
  readonly command?: (command: SentCommand, socket: Socket) => void;
}

export class FakeMonitor implements AsyncDisposable {
  readonly path: string;
  /** Those that have connected, in order. */
  readonly clients: Socket[] = [];
  readonly #server: Server;
  readonly #directory: string;

  private constructor(directory: string, { greeting, connected, command }: FakeMonitorOptions) {
    this.#directory = directory;
    this.path = join(directory, "qmp");
    this.#server = createServer((socket) => {
      this.clients.push(socket);
      socket.on("error", () => {});
      let text = "";
      socket.setEncoding("utf8").on("data", (piece: string) => {
        text += piece;
        for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
          const sent = JSON.parse(text.slice(0, end)) as SentCommand;
          text = text.slice(end + 1);
          if (sent.execute === "qmp_capabilities") socket.write(`{"return": {}, "id": ${sent.id}}`);
          else command?.(sent, socket);
        }
      });
      if (greeting !== undefined) socket.write(greeting);
      connected?.(socket);
    });
  }

  static async start(options: FakeMonitorOptions = {}): Promise<FakeMonitor> {
    const directory = mkdtempSync(join(tmpdir(), "streamdisk-qmp-"));
    const monitor = new FakeMonitor(directory, { greeting: GREETING, ...options });
    monitor.#server.listen(monitor.path);
    await once(monitor.#server, "listening");
    return monitor;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.clients) client.destroy();
    this.#server.close();
    await once(this.#server, "close");
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
