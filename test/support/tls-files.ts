/** Certificates and keys for TLS, by GnuTLS's own tools, laid out as nbdkit, libnbd and QEMU expect them. */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "./qemu.ts";

function tool(program: string, ...args: readonly string[]): void {
  const { status, stderr } = run(program, ...args);
  assert.equal(status, 0, `${program} ${args.join(" ")}: ${stderr}`);
}

/**
 * Makes a directory with an authority, a server's certificate for `localhost` and 127.0.0.1, and a client's.
 *
 * @returns its path
 */
export function makeCertificates(directory: string): string {
  mkdirSync(directory, { recursive: true });
  const at = (name: string): string => join(directory, name);
  const key = (name: string): void => tool("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", at(name));
  const sign = (who: string, template: readonly string[]): void => {
    key(`${who}-key.pem`);
    writeFileSync(at(`${who}.info`), template.join("\n"));
    tool(
      ...(["certtool", "--generate-certificate", "--load-ca-certificate", at("ca-cert.pem")] as const),
      ...["--load-ca-privkey", at("ca-key.pem"), "--load-privkey", at(`${who}-key.pem`)],
      ...["--template", at(`${who}.info`), "--outfile", at(`${who}-cert.pem`)],
    );
  };
  key("ca-key.pem");
  writeFileSync(
    at("ca.info"),
    "cn = streamdisk tests\nca\ncert_signing_key\ncrl_signing_key\nexpiration_days = 3650\n",
  );
  tool(
    ...(["certtool", "--generate-self-signed", "--load-privkey", at("ca-key.pem")] as const),
    ...["--template", at("ca.info"), "--outfile", at("ca-cert.pem")],
  );
  sign("server", [
    ...["cn = localhost", "dns_name = localhost", "ip_address = 127.0.0.1"],
    ...["tls_www_server", "signing_key", "expiration_days = 3650"],
  ]);
  sign("client", ["cn = client", "tls_www_client", "signing_key", "expiration_days = 3650"]);
  return directory;
}

/** Revokes a certificate of such a directory, from now on. */
export function revoke(directory: string, who: "server" | "client"): void {
  const at = (name: string): string => join(directory, name);
  writeFileSync(at("crl.info"), "expiration_days = 3650\ncrl_number = 1\n");
  tool(
    ...(["certtool", "--generate-crl", "--load-ca-privkey", at("ca-key.pem")] as const),
    ...["--load-ca-certificate", at("ca-cert.pem"), "--load-certificate", at(`${who}-cert.pem`)],
    ...["--template", at("crl.info"), "--outfile", at("ca-crl.pem")],
  );
}

/** Adds keys of users to a file, made if need be. @returns its path */
export function makePskFile(path: string, ...users: readonly string[]): string {
  for (const user of users) tool("psktool", "-u", user, "-p", path);
  return path;
}
