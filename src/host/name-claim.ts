/**
 * A name that one process of this machine has at a time, without a native call: a Unix socket in Linux's abstract namespace
 * (unix(7)), which nobody can hold twice and which goes with its process, however that ends.
 */
import { createServer } from "node:net";

export interface NameClaim {
  release(): Promise<void>;
}

/**
 * Claims a name.
 *
 * @returns undefined when somebody has it
 * @throws {Error} an operating system error; where there is no such namespace, too
 */
export function claimName(name: string): Promise<NameClaim | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") resolve(undefined);
      else reject(error);
    });
    server.listen({ path: `\0streamdisk/${name}`, exclusive: true }, () => {
      server.unref();
      resolve({ release: () => new Promise((released) => server.close(() => released())) });
    });
  });
}
