import assert from "node:assert/strict";
import { networkInterfaces } from "node:os";
import { test } from "node:test";
import type { ExportAddress } from "../jobs/index.ts";
import { isServedBy, type ServedSource } from "./served-sources.ts";

function served(address: ExportAddress): ServedSource {
  return { address, exportName: "debian" } as ServedSource;
}

test("a client at a socket is known by the socket, and one at a relative path is somebody else's", async () => {
  const ours = served({ kind: "unix", path: "/run/none/debian.sock" });
  const is = (uri: string): Promise<boolean> => isServedBy(uri, ours);
  assert.equal(await is("nbd+unix:///debian?socket=/run/none/debian.sock"), true);
  assert.equal(await is("nbd+unix:///debian?socket=/run/none/../none/debian.sock"), true);
  assert.equal(await is("nbd+unix:///other?socket=/run/none/debian.sock"), false);
  assert.equal(await is("nbd+unix:///debian?socket=debian.sock"), false);
  assert.equal(await is("/run/none/debian.sock"), false);
});

test("a client by TCP is known by the port, whatever the machine is called there, and not that of another machine", async () => {
  const ours = served({ kind: "tcp", host: "0.0.0.0", port: 10809 });
  const is = (authority: string): Promise<boolean> => isServedBy(`nbd://${authority}/debian`, ours);
  const own = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
  const names = own.map(({ address, family }) => (family === "IPv6" ? `[${address}]` : address));
  for (const name of ["localhost", "0.0.0.0", "127.0.0.1", "127.0.1.1", "[::1]", ...names]) {
    assert.equal(await is(`${name}:10809`), true, name);
  }
  assert.equal(await is("localhost:10810"), false);
  // Addresses for documentation (RFC 5737, RFC 3849).
  for (const name of ["192.0.2.1", "[2001:db8::1]"]) assert.equal(await is(`${name}:10809`), false, name);
});
