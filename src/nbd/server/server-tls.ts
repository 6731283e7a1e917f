/**
 * TLS on the server's side: with certificates, every client must show one that the authority has signed; with pre-shared
 * keys, it must know the key of the user that it says it is.
 */
import type { Socket } from "node:net";
import { createServer, type TLSSocket, type TlsOptions } from "node:tls";
import { StreamdiskError } from "../../errors/index.ts";
import { loadPskFile, loadTlsCertificates, PSK_CIPHERS, TLS_MINIMUM } from "../tls.ts";

export type NbdServerTls =
  /** Directory with `ca-cert.pem`, `server-cert.pem`, `server-key.pem` and perhaps `ca-crl.pem`. */
  | { readonly certificates: string }
  /** File with lines `USER:HEX`. */
  | { readonly pskFile: string };

/** @throws {StreamdiskError} as reading the files says */
export async function serverTlsOptions(tls: NbdServerTls): Promise<TlsOptions> {
  if ("pskFile" in tls) {
    const keys = await loadPskFile(tls.pskFile);
    return {
      pskCallback: (_, identity) => keys.get(identity) ?? null,
      ciphers: PSK_CIPHERS,
      minVersion: TLS_MINIMUM,
      dhparam: "auto",
    };
  }
  const { ca, crl, cert, key } = await loadTlsCertificates(tls.certificates, "server");
  return {
    ca,
    ...(crl !== undefined && { crl }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: TLS_MINIMUM,
  };
}

/**
 * Encrypts a connection. Only a server of `node:tls` judges the client's certificate, so each connection gets one to itself,
 * which listens nowhere.
 *
 * @throws {StreamdiskError} `refused` when the client is not who it should be, or goes away
 */
export function startServerTls(plain: Socket, options: TlsOptions): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const server = createServer(options, resolve);
    server.once("tlsClientError", (error, socket) => {
      socket.destroy();
      reject(new StreamdiskError("refused", `A client failed to begin TLS: ${error.message}`, {}, error));
    });
    server.emit("connection", plain);
  });
}
