import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { temporaryDirectory } from "../../test/support/cli.ts";
import { readSettings } from "./settings.ts";

const NOBODY = { environment: { HOME: "/home/vera" }, root: false } as const;

function settingsFile(t: TestContext, content: unknown): string {
  const path = join(temporaryDirectory(t), "daemon.json");
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

test("without a file and flags there are defaults", async () => {
  const state = "/home/vera/.local/state/streamdisk";
  assert.deepEqual(await readSettings(NOBODY), {
    stateDirectory: state,
    imageDirectory: `${state}/images`,
    socket: `${state}/daemon.sock`,
    tokenFile: `${state}/token`,
    allow: [],
    allowKeys: [],
    sourceOptions: {},
    maxStreams: 4,
    keep: { events: 10_000, jobs: 1_000 },
    logLevel: "info",
  });
});

test("the state directory is the system's for root, and follows XDG for others", async () => {
  assert.equal((await readSettings({ ...NOBODY, root: true })).stateDirectory, "/var/lib/streamdisk");
  const environment = { HOME: "/home/vera", XDG_STATE_HOME: "/data/state" };
  assert.equal((await readSettings({ environment, root: false })).stateDirectory, "/data/state/streamdisk");
  const relative = { HOME: "/home/vera", XDG_STATE_HOME: "state" };
  const { stateDirectory } = await readSettings({ environment: relative, root: false });
  assert.equal(stateDirectory, "/home/vera/.local/state/streamdisk");
});

test("a flag goes before the file, and the file before the default", async (t) => {
  const file = settingsFile(t, {
    stateDirectory: "/srv/streamdisk",
    socketMode: "0660",
    socketGroup: "kvm",
    diskSocketMode: "666",
    diskSocketGroup: "qemu",
    sourceOptions: { caFile: "/etc/ca.pem", tlsCertificates: "/etc/pki" },
    listen: { port: 8080 },
    allow: ["/srv/images", "https://images.example/"],
    allowKeys: ["/etc/pki"],
    maxStreams: 8,
    speed: 1_000_000,
    keep: { events: 5, jobs: 6 },
    logLevel: "debug",
  });
  const more = { diskSocketGroup: "libvirt", sourceOptions: { caFile: "ca.pem", tlsPskFile: undefined } };
  const flags = {
    maxStreams: 2,
    allow: ["bases", "nbd://host/"],
    allowKeys: ["pki"],
    keep: { jobs: 7 },
    speed: undefined,
    ...more,
  };
  assert.deepEqual(await readSettings({ ...NOBODY, file, flags }), {
    stateDirectory: "/srv/streamdisk",
    imageDirectory: "/srv/streamdisk/images",
    socket: "/srv/streamdisk/daemon.sock",
    socketMode: 0o660,
    socketGroup: "kvm",
    diskSocketMode: 0o666,
    diskSocketGroup: "libvirt",
    sourceOptions: { caFile: join(process.cwd(), "ca.pem"), tlsCertificates: "/etc/pki" },
    listen: { host: "127.0.0.1", port: 8080 },
    tokenFile: "/srv/streamdisk/token",
    allow: [join(process.cwd(), "bases"), "nbd://host/"],
    allowKeys: [join(process.cwd(), "pki")],
    maxStreams: 2,
    speed: 1_000_000,
    keep: { events: 5, jobs: 7 },
    logLevel: "debug",
  });
});

const WRONG: readonly (readonly [content: unknown, complaint: RegExp])[] = [
  [{ maxStream: 4 }, /there is no setting 'maxStream'/],
  [{ keep: { event: 4 } }, /there is no setting 'keep.event'/],
  [{ maxStreams: 0 }, /'maxStreams': /],
  [{ maxStreams: "4" }, /'maxStreams': expected number/],
  [{ stateDirectory: "state" }, /'stateDirectory': expected an absolute path/],
  [{ allow: ["images"] }, /'allow\.0': expected an absolute path or the beginning of a URI/],
  [{ socketMode: "rw-" }, /'socketMode': expected three octal digits/],
  [{ socketMode: 660 }, /'socketMode': /],
  [{ listen: { host: "example.org", port: 1 } }, /'listen\.host': /],
  [{ logLevel: "loud" }, /'logLevel': /],
  [[], /expected object/],
  ["{ maxStreams: 4 }", /is not JSON/],
  [`"${"x".repeat(70_000)}"`, /is longer than 65536 bytes/],
];

for (const [content, complaint] of WRONG) {
  test(`a file is refused by its name: ${complaint.source}`, async (t) => {
    const file = settingsFile(t, content);
    await assert.rejects(readSettings({ ...NOBODY, file }), (error: Error & { code?: string }) => {
      assert.equal(error.code, "invalid-argument");
      assert(error.message.startsWith(`Settings file '${file}'`), error.message);
      assert.match(error.message, complaint);
      return true;
    });
  });
}

test("a file that was named must be there", async (t) => {
  const file = join(temporaryDirectory(t), "gone.json");
  await assert.rejects(readSettings({ ...NOBODY, file }), { code: "not-found" });
});

test("others can reach the API only under TLS", async () => {
  const listen = { host: "192.0.2.1", port: 8080 };
  await assert.rejects(readSettings({ ...NOBODY, flags: { listen } }), { code: "invalid-argument" });
  const settings = await readSettings({ ...NOBODY, flags: { listen, tlsCertificates: "/etc/pki" } });
  assert.deepEqual(settings.listen, listen);
  for (const host of ["127.0.0.1", "127.8.9.10", "::1"]) {
    await readSettings({ ...NOBODY, flags: { listen: { host, port: 0 } } });
  }
});

test("a socket with too long a path is refused", async () => {
  const socket = `/${"s".repeat(107)}`;
  const expected = { code: "invalid-argument", message: /108 bytes, and the system takes 107/ };
  await assert.rejects(readSettings({ ...NOBODY, flags: { socket } }), expected);
});
