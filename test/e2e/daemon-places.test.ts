/** Places where a daemon is to listen that are not free: another server has them, or something that is no socket lies there. */
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type ListenOptions, type Server } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { assertFails, cli, temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";

function serverAt(options: ListenOptions): Promise<Server> {
  const server = createServer((socket) => socket.destroy());
  return new Promise((resolve, reject) => {
    server.once("error", reject).listen(options, () => resolve(server));
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

test("places of disks and exports that are taken are named, left as they are, and used when they are free", async (t) => {
  await using daemon = new DaemonProcess(temporaryDirectory(t));
  const { client } = daemon;
  const image = join(daemon.images, "image.raw");
  writeFileSync(image, Buffer.alloc(4096));
  await daemon.start();
  for (const name of ["taken", "file", "well"]) await client.call("createDisk", { body: { name, size: 4096 } });
  const [taken = "", file = ""] = ["taken", "file"].map((name) => join(daemon.state, "sockets", `${name}.sock`));
  const free = await serverAt({ host: "127.0.0.1", port: 0 });
  const { port } = free.address() as { port: number };
  await closed(free);
  await client.call("addExport", { body: { name: "tcp", image, listen: { port } } });
  const path = join(daemon.images, "export.sock");
  await client.call("addExport", { body: { name: "unix", image, listen: { socket: path } } });
  await daemon.stop();

  const others = [
    await serverAt({ path: taken }),
    await serverAt({ host: "127.0.0.1", port }),
    await serverAt({ path }),
  ];
  writeFileSync(file, "precious");
  await daemon.start();
  const { disks } = await client.call("listDisks", {});
  const { exports } = await client.call("listExports", {});
  const how = [...disks, ...exports].map(({ name, error }) => [name, error?.code, error?.message]);
  assert.deepEqual(how, [
    ["file", "exists", `'${file}' is there already and is no socket: choose another path, or remove it`],
    ["taken", "in-use", `Another server listens at '${taken}'`],
    ["well", undefined, undefined],
    ["tcp", "in-use", `Another server listens at '127.0.0.1:${port}'`],
    ["unix", "in-use", `Another server listens at '${path}'`],
  ]);
  assert.equal(readFileSync(file, "utf8"), "precious");
  const again = client.call("addExport", { body: { name: "more", image, listen: { socket: path } } });
  await assert.rejects(again, { code: "in-use", message: `Another server listens at '${path}'` });

  await Promise.all(others.map(closed));
  rmSync(file);
  const isServed = async (): Promise<boolean> => {
    const now = [...(await client.call("listDisks", {})).disks, ...(await client.call("listExports", {})).exports];
    return now.every(({ error }) => error === undefined);
  };
  while (!(await isServed())) await sleep(100);
});

test("a daemon ends with a word when the place of its API is taken, and leaves what is there", async (t) => {
  await using daemon = new DaemonProcess(temporaryDirectory(t));
  await daemon.start();
  await daemon.stop();
  const start = () => cli(["daemon", "--state-directory", daemon.state, "--log-level", "silent"]);
  const other = await serverAt({ path: daemon.socket });
  assertFails(await start(), 75, `Another server listens at '${daemon.socket}'`);
  assert(other.listening);
  await closed(other);
  writeFileSync(daemon.socket, "precious");
  assertFails(await start(), 73, `'${daemon.socket}' is there already and is no socket`);
  assert.equal(readFileSync(daemon.socket, "utf8"), "precious");
});
