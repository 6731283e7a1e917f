import assert from "node:assert/strict";
import { test } from "node:test";
import { ServedDisk } from "./served-disk.ts";
import type { DiskPlace } from "./threads.ts";

/** A handle to a disk that is nowhere. */
function handle(uri: string, exportName = ""): ServedDisk {
  const listen = uri.includes("+unix") ? { path: "/run/a,b.sock" } : { host: "127.0.0.1", port: 0 };
  return new ServedDisk({} as DiskPlace, { uri, image: "vm.qcow2", listen, exportName, nodeName: "n" });
}

test("QEMU is told the port that a URI need not say, and commas twice", () => {
  assert.equal(
    handle("nbd://127.0.0.1/").qemuBlockdev(),
    "driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port=10809,discard=unmap",
  );
  assert.equal(
    handle("nbd+unix:///x%2Cy?socket=/run/a,b.sock", "x,y").qemuBlockdev(),
    "driver=nbd,node-name=n,server.type=unix,server.path=/run/a,,b.sock,export=x,,y,discard=unmap",
  );
  assert.match(handle("nbds://127.0.0.1:9/").qemuBlockdev(), /server\.port=9,tls-creds=tls0,/);
  assert.deepEqual(handle("nbd://127.0.0.1:9/").qemuArgs({ device: false }).length, 2);
});
