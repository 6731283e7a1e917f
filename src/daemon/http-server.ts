/**
 * Where the API listens: a Unix socket, and TCP only when asked for.
 *
 * Over TCP there is always a token. Without TLS only a loopback address is listened to, since the token would be there for all to read
 * on any other. Each server's own limits (time for the headers and for the request, number of connections) hold off who would keep
 * it busy with nothing.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer, type RequestListener, type Server, type ServerOptions } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, isIP } from "node:net";
import { join } from "node:path";
import { getRequestListener } from "@hono/node-server";
import { StreamdiskError, wrapSystemError } from "../errors/index.ts";
import { isLoopback, listenUnix, type UnixListen } from "../host/index.ts";
import type { AccessRules, Caller } from "./access.ts";
import type { HttpApp } from "./http-app.ts";
import { failureAnswer, responseOf } from "./http-problem.ts";

export interface HttpTcpListen {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  /** Directory with `server-cert.pem` and `server-key.pem`. */
  readonly tlsCertificates?: string;
}

export interface HttpServer {
  /** Path of a Unix socket, or URL. */
  readonly address: string;
  /**
   * Takes no more requests, waits for those under way, and ends after some time whatever is still there. Who follows events is to be
   * ended by the application before.
   */
  close(graceMs: number): Promise<void>;
}

const LIMITS: ServerOptions = {
  headersTimeout: 10_000,
  requestTimeout: 20_000,
  keepAliveTimeout: 30_000,
  connectionsCheckingInterval: 2_000,
};
const MOST_CONNECTIONS = 512;
const CLOSE_IDLE_MS = 50;

/**
 * Lets the application answer on a Unix socket. A dead daemon's socket is taken over.
 *
 * @throws {StreamdiskError} `in-use` when a living one has it; `exists`, `permission`, `invalid-argument`
 */
export async function serveUnix(app: HttpApp, listen: UnixListen): Promise<HttpServer> {
  const server = createServer(
    LIMITS,
    listenerOf(app, () => ({ kind: "unix" })),
  );
  server.maxConnections = MOST_CONNECTIONS;
  const unlisten = await listenUnix(server, listen);
  return {
    address: listen.path,
    close: async (graceMs) => {
      await unlisten();
      await closed(server, graceMs);
    },
  };
}

/**
 * Lets the application answer over TCP.
 *
 * @param access the rules that the application was made with
 * @throws {StreamdiskError} `refused` without a token, or without TLS on an address that others can reach; `in-use`, `not-found`
 */
export async function serveTcp(app: HttpApp, listen: HttpTcpListen, access: AccessRules): Promise<HttpServer> {
  refuseWhatIsOpen(listen, access);
  const tls = listen.tlsCertificates === undefined ? undefined : await certificates(listen.tlsCertificates);
  const isOwnName = (host: string): boolean => {
    return tls === undefined
      ? isLoopback(unbracketed(host)) || unbracketed(host) === listen.host
      : covers(tls.subject, host);
  };
  const listener = listenerOf(app, (address) => ({ kind: "tcp", address, secure: tls !== undefined, isOwnName }));
  const server =
    tls === undefined
      ? createServer(LIMITS, listener)
      : createTlsServer({ ...LIMITS, cert: tls.cert, key: tls.key, minVersion: "TLSv1.2" }, listener);
  server.maxConnections = MOST_CONNECTIONS;
  const { host } = listen;
  await new Promise<void>((done, failed) => {
    server.once("error", (error) => failed(whyNot(error, listen)));
    server.listen({ host, port: listen.port }, done);
  });
  const { port } = server.address() as AddressInfo;
  const address = `${tls === undefined ? "http" : "https"}://${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
  return { address, close: (graceMs) => closed(server, graceMs) };
}

function refuseWhatIsOpen({ host, tlsCertificates }: HttpTcpListen, { token }: AccessRules): void {
  if (token === undefined || token === "") {
    throw new StreamdiskError("refused", `The API on '${host}' needs a token: whoever reaches a port would be let in`);
  }
  if (tlsCertificates === undefined && !isLoopback(host)) {
    const message = `The API on '${host}' needs TLS, since others can reach it: give certificates, or listen on 127.0.0.1`;
    throw new StreamdiskError("refused", message);
  }
}

interface ServerCertificate {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly subject: X509Certificate;
}

async function certificates(directory: string): Promise<ServerCertificate> {
  const [certPath, keyPath] = [join(directory, "server-cert.pem"), join(directory, "server-key.pem")];
  const [cert, key] = await Promise.all([readPem(certPath), readPem(keyPath)]);
  try {
    const subject = new X509Certificate(cert);
    if (subject.checkPrivateKey(createPrivateKey(key))) return { cert, key, subject };
  } catch (error) {
    const said = error instanceof Error ? error.message : error;
    throw new StreamdiskError("invalid-argument", `'${certPath}' and '${keyPath}' can't be used: ${said}`);
  }
  throw new StreamdiskError("invalid-argument", `'${keyPath}' is not the key of '${certPath}'`);
}

async function readPem(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw wrapSystemError(error, path, "read");
  }
}

/** Whether a client that asks for this host could have been content with the certificate. */
function covers(certificate: X509Certificate, host: string): boolean {
  const name = unbracketed(host);
  return (isIP(name) === 0 ? certificate.checkHost(name) : certificate.checkIP(name)) !== undefined;
}

function unbracketed(host: string): string {
  return host.replace(/^\[(.*)\]$/, "$1");
}

function whyNot(error: NodeJS.ErrnoException, { host, port }: HttpTcpListen): Error {
  if (error.code !== "EADDRINUSE") return wrapSystemError(error, `${host}:${port}`, "listen at");
  const message = `Another program listens at '${host}:${port}'`;
  return new StreamdiskError("in-use", message, { operation: "listen" }, error);
}

function listenerOf(app: HttpApp, callerAt: (address: string) => Caller): RequestListener {
  const respond = getRequestListener(
    (request, { incoming, outgoing }) => {
      const caller = callerAt(incoming.socket.remoteAddress ?? "unknown");
      return app.fetch(request, { caller, cutOff: () => outgoing.destroy() });
    },
    {
      overrideGlobalObjects: false,
      // What is no request at all: the application has not seen it.
      errorHandler: (error) => {
        const said = error instanceof Error ? error.message : String(error);
        return responseOf(
          failureAnswer(new StreamdiskError("invalid-argument", `The request is not valid: ${said}`), ""),
        );
      },
    },
  );
  return (incoming, outgoing) => {
    void respond(incoming, outgoing);
  };
}

function closed(server: Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const enough = setTimeout(() => server.closeAllConnections(), graceMs);
    // A connection that was busy becomes idle, and would stay for the sake of a next request.
    const idle = setInterval(() => server.closeIdleConnections(), CLOSE_IDLE_MS);
    server.close(() => {
      clearTimeout(enough);
      clearInterval(idle);
      resolve();
    });
  });
}
