/** The socket on which systemd hears of a service: a real datagram socket, which Node.js lacks, in a small Python program. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";

const PROGRAM = `
import json, socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name.startswith("@") else name)
print("null", flush=True)
while True: print(json.dumps(s.recv(65536).decode()), flush=True)
`;

export class NotifySocket implements AsyncDisposable {
  /** Each datagram as its lines, in order. */
  readonly heard: string[][] = [];
  readonly #child: ChildProcess;
  readonly #listening: Promise<void>;
  #changed = Promise.withResolvers<void>();

  /** @param name a path, or a name in the abstract namespace with `@` in front */
  private constructor(name: string) {
    const child = spawn("python3", ["-c", PROGRAM, name], { stdio: ["ignore", "pipe", "inherit"] });
    this.#child = child;
    const listening = Promise.withResolvers<void>();
    this.#listening = listening.promise;
    createInterface({ input: child.stdout }).on("line", (line) => {
      const text = JSON.parse(line) as string | null;
      if (text === null) return listening.resolve();
      this.heard.push(text.split("\n"));
      this.#changed.resolve();
      this.#changed = Promise.withResolvers<void>();
    });
    child.once("error", listening.reject);
    child.once("exit", (code) => listening.reject(new Error(`python3 has ended with ${code}`)));
  }

  static async listen(name: string): Promise<NotifySocket> {
    const socket = new NotifySocket(name);
    await socket.#listening;
    return socket;
  }

  count(line: string): number {
    return this.heard.filter((lines) => lines.includes(line)).length;
  }

  /** Resolves when a line has been heard so often. */
  async hears(line: string, times = 1): Promise<void> {
    while (this.count(line) < times) await this.#changed.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    await new Promise((resolve) => {
      this.#child.once("exit", resolve);
      this.#child.kill("SIGKILL");
    });
  }
}
