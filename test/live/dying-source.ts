/** Sources that die in all the ways that sources have, and come back: each the same file, behind a server of its own. */
import { once } from "node:events";
import { createReadStream, renameSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type ServerResponse } from "node:http";
import { type AddressInfo, createServer, type Server } from "node:net";
import { parseNbdUri } from "../../src/nbd/index.ts";
import { type NbdServerProcess, startNbdkit, startQemuNbd } from "../support/nbd-servers.ts";

export interface DyingSource extends AsyncDisposable {
  readonly uri: string;
  die(): Promise<void>;
  revive(): Promise<void>;
}

export interface Death {
  /** "a source that is ..." */
  readonly name: string;
  /** `lost`: requests fail. `late`: they wait, and nobody is told for a while. `changed`: it is another one, for good. */
  readonly kind: "lost" | "late" | "changed";
  /** Whether the source tells its holes from data. */
  readonly knowsHoles: boolean;
  /** @param base path of the file, in a directory where more may be kept */
  start(base: string): Promise<DyingSource>;
}

/** How a server dies and comes back. */
interface Fate {
  die(): Promise<void>;
  revive(): Promise<void>;
}

/** @param filters of nbdkit, with parameters, given the place of a file that commands them */
function overNbd(
  name: string,
  kind: Death["kind"],
  fate: (server: NbdServerProcess, base: string, command: string) => Fate & Partial<AsyncDisposable>,
  filters: (command: string) => readonly string[] = () => [],
): Death {
  const start = async (base: string): Promise<DyingSource> => {
    const command = `${base}.command`;
    const [filter = [], parameters = []] = split(filters(command));
    const server = await startNbdkit([...filter, "file", base, ...parameters]);
    const { die, revive, [Symbol.asyncDispose]: dispose } = fate(server, base, command);
    return {
      uri: server.uri,
      die,
      revive,
      async [Symbol.asyncDispose]() {
        await dispose?.();
        await server[Symbol.asyncDispose]();
      },
    };
  };
  return { name, kind, knowsHoles: true, start };
}

/** Options go before the plug-in, parameters behind. */
function split(args: readonly string[]): [string[], string[]] {
  return [args.filter((arg) => arg.startsWith("-")), args.filter((arg) => !arg.startsWith("-"))];
}

const killed = (server: NbdServerProcess): Fate => ({
  die: () => server.stop("SIGKILL"),
  revive: () => server.start(),
});

const frozen = (server: NbdServerProcess): Fate => ({
  die: () => server.freeze(),
  revive: async () => server.thaw(),
});

/** Whoever comes to the server's place is hung up on. */
function refusing(server: NbdServerProcess): Fate & AsyncDisposable {
  const address = parseNbdUri(server.uri);
  if (!address.unix) throw new Error(`${server.uri} is no Unix socket`);
  let refuser: Server | undefined;
  const end = (): Promise<void> =>
    new Promise((resolve) => {
      if (refuser === undefined) resolve();
      else refuser.close(() => resolve());
      refuser = undefined;
    });
  return {
    async die() {
      await server.stop("SIGKILL");
      rmSync(address.socket, { force: true });
      refuser = createServer((socket) => socket.destroy()).listen(address.socket);
      await once(refuser, "listening");
    },
    async revive() {
      await end();
      await server.start();
    },
    [Symbol.asyncDispose]: end,
  };
}

/** To be read whole or not at all. */
function put(path: string, text: string): void {
  writeFileSync(`${path}.new`, text);
  renameSync(`${path}.new`, path);
}

const slow = (_server: NbdServerProcess, _base: string, command: string): Fate => ({
  // Bits a second.
  die: async () => put(command, "16M"),
  revive: async () => put(command, "80G"),
});

const answeringErrors = (_server: NbdServerProcess, _base: string, command: string): Fate => ({
  die: async () => writeFileSync(command, ""),
  revive: async () => rmSync(command),
});

const changed = (server: NbdServerProcess, base: string): Fate => ({
  async die() {
    await server.stop("SIGKILL");
    truncateSync(base, statSync(base).size - 2 ** 20);
    await server.start();
  },
  revive: async () => {},
});

/** An object store that stops answering in one of its ways. */
function overHttp(name: string, kind: Death["kind"], how: "hangs up" | "silent" | "busy" | "other version"): Death {
  return { name: `${name} (HTTP)`, kind, knowsHoles: false, start: (base) => startHttp(base, how) };
}

async function startHttp(base: string, how: "hangs up" | "silent" | "busy" | "other version"): Promise<DyingSource> {
  let dead = false;
  const waiting: (() => void)[] = [];
  const answer = (range: string, reply: ServerResponse): void => {
    const [, from = "", to = ""] = /^bytes=(\d+)-(\d+)$/.exec(range) ?? [];
    const [start, end] = [Number(from), Number(to)];
    const etag = dead && how === "other version" ? '"2"' : '"1"';
    const size = statSync(base).size;
    reply.writeHead(206, {
      ...{ etag, "content-range": `bytes ${start}-${end}/${size}`, "content-length": end - start + 1 },
    });
    createReadStream(base, { start, end }).pipe(reply);
  };
  const server = createHttpServer((request, reply) => {
    const { range = "" } = request.headers;
    if (!dead || how === "other version") answer(range, reply);
    else if (how === "hangs up") request.socket.destroy();
    else if (how === "busy") reply.writeHead(503).end();
    else waiting.push(() => answer(range, reply));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    uri: `http://127.0.0.1:${(server.address() as AddressInfo).port}/base.raw`,
    async die() {
      dead = true;
      if (how === "hangs up") server.closeAllConnections();
    },
    async revive() {
      dead = false;
      for (const late of waiting.splice(0)) late();
    },
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

export const KILLED: Death = overNbd("killed", "lost", killed);

/** For longer than the client waits for a reply. (Of nbdkit an assertion fails when it goes on and finds its clients gone.) */
export const FROZEN_LONG: Death = {
  ...{ name: "frozen past the time limit", kind: "lost", knowsHoles: true },
  async start(base) {
    const server = await startQemuNbd(["-r", "-f", "raw", base]);
    const { die, revive } = frozen(server);
    return { uri: server.uri, die, revive, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
  },
};

export const NBD_DEATHS: readonly Death[] = [
  KILLED,
  overNbd("frozen", "late", frozen),
  overNbd("slow", "late", slow, (file) => ["--filter=rate", `rate-file=${file}`]),
  overNbd("refusing", "lost", refusing),
  overNbd("answering EIO", "lost", answeringErrors, (file) => [
    ...["--filter=error", "error=EIO", "error-pread-rate=100%", `error-file=${file}`],
  ]),
  overNbd("changed", "changed", changed),
];

export const HTTP_DEATHS: readonly Death[] = [
  overHttp("hanging up", "lost", "hangs up"),
  overHttp("silent", "late", "silent"),
  overHttp("answering 503", "lost", "busy"),
  overHttp("changed", "changed", "other version"),
];
