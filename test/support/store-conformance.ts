/** What every store must do, whatever it keeps its records in. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type {
  DeploymentRecord,
  DiskRecord,
  DomainRecord,
  EventRecord,
  ExportRecord,
  JobRecord,
  JobState,
  Store,
} from "../../src/jobs/index.ts";

const ALL = 1000;

/** @param open an empty store, closed by the suite */
export function testStore(name: string, open: (t: TestContext) => Promise<Store>): void {
  const testWith = (title: string, check: (store: Store) => Promise<void>) =>
    test(`${name}: ${title}`, async (t) => {
      await using store = await open(t);
      await check(store);
    });

  testWith("is empty at first", async (store) => {
    assert.deepEqual(await store.disks(), []);
    assert.deepEqual(await store.exports(), []);
    assert.deepEqual(await store.jobs({ limit: ALL }), []);
    assert.deepEqual(await store.speedLimits(), []);
    assert.deepEqual(await store.events({ limit: ALL }), []);
    assert.equal(await store.lastEvent(), 0);
    assert.equal(await store.job("none"), undefined);
  });

  testWith("keeps disks as they are, in the order of their names", async (store) => {
    const web = aDisk("2", "web");
    const whole: DiskRecord = {
      ...aDisk("1", "a.b-C_9"),
      state: "deleting",
      settings: {
        image: "/images/ä 'quoted' \u{1f4be}.qcow2",
        format: "qcow2",
        backing: "https://user:secret@images.example/base?x=1",
        backingFormat: "raw",
        readOnly: true,
        copyOnRead: false,
        onSourceError: { holdMs: Number.POSITIVE_INFINITY, afterwards: "pause" },
      },
      address: { kind: "tcp", host: "::1", port: 10809 },
      newSize: Number.MAX_SAFE_INTEGER,
      deleteFile: true,
    };
    await store.putDisk(web);
    await store.putDisk(whole);
    await store.putDisk(aDisk("3", "Web"));
    assert.deepEqual(await store.disks(), [aDisk("3", "Web"), whole, web]);
  });

  testWith("replaces a disk by its id, and lets it take another name", async (store) => {
    await store.putDisk({ ...aDisk("1", "web"), newSize: 5 });
    const renamed = { ...aDisk("1", "www"), newSize: undefined };
    await store.putDisk(renamed);
    assert.deepEqual(await store.disks(), [aDisk("1", "www")], "what is undefined is not there");
    await store.putDisk(aDisk("2", "web"));
    assert.equal((await store.disks()).length, 2);
  });

  testWith("refuses a second disk of one name and leaves the first", async (store) => {
    await store.putDisk(aDisk("1", "web"));
    await store.putDisk(aDisk("2", "db"));
    await assert.rejects(store.putDisk({ ...aDisk("2", "web"), newSize: 7 }), { code: "exists", message: /'web'/ });
    assert.deepEqual(await store.disks(), [aDisk("2", "db"), aDisk("1", "web")]);
  });

  testWith("forgets a disk and keeps its jobs", async (store) => {
    await store.putDisk(aDisk("1", "web"));
    await store.putJob(aJob("j", "1"));
    await store.deleteDisk("1");
    await store.deleteDisk("1");
    assert.deepEqual(await store.disks(), []);
    assert.deepEqual(await store.jobs({ disk: "1", limit: ALL }), [aJob("j", "1")]);
    await store.putDisk(aDisk("2", "web"));
  });

  testWith("knows the newest job of each of some disks", async (store) => {
    for (const [id, disk] of [
      ["a", "1"],
      ["b", "1"],
      ["c", "2"],
      ["d", "3"],
      ["a", "1"],
    ] as const)
      await store.putJob(aJob(id, disk));
    const ids = async (...disks: string[]) => (await store.lastJobs(disks)).map(({ id }) => id).sort();
    assert.deepEqual(await ids("1", "2", "none"), ["b", "c"]);
    assert.deepEqual(await ids(), []);
  });

  testWith("hands out what is the caller's own", async (store) => {
    const disk = aDisk("1", "web");
    await store.putDisk(disk);
    const [first] = await store.disks();
    Object.assign(first?.settings ?? {}, { image: "/elsewhere" });
    Object.assign(disk, { name: "other" });
    assert.deepEqual(await store.disks(), [aDisk("1", "web")]);
  });

  testWith("keeps exports by their names", async (store) => {
    const full: ExportRecord = { ...anExport("base"), maxConnections: 3, tlsCertificates: "/pki", tlsPskFile: "/psk" };
    await store.addExport(full);
    await store.addExport(anExport("alpine"));
    await assert.rejects(store.addExport(anExport("base")), { code: "exists", message: /'base'/ });
    assert.deepEqual(await store.exports(), [anExport("alpine"), full]);
    await store.putExport({ ...full, removing: true });
    assert.deepEqual(await store.exports(), [anExport("alpine"), { ...full, removing: true }]);
    await store.deleteExport("base");
    await store.deleteExport("base");
    await store.putExport(full);
    assert.deepEqual(await store.exports(), [anExport("alpine")]);
  });

  testWith("keeps domains by their names", async (store) => {
    const web: DomainRecord = { id: "1", name: "web", qmp: "/run/web.qmp", createdAt: 1 };
    const all: DomainRecord = { id: "2", name: "all", qmp: "/run/all.qmp", xml: "<domain/>", createdAt: 2 };
    assert.deepEqual(await store.domains(), []);
    await store.addDomain(web);
    await store.addDomain(all);
    await assert.rejects(store.addDomain({ ...all, name: "web" }), { code: "exists", message: /'web'/ });
    assert.deepEqual(await store.domains(), [all, web]);
    await store.putDomain({ ...all, pausedByUser: true });
    assert.deepEqual(await store.domains(), [{ ...all, pausedByUser: true }, web]);
    await store.deleteDomain("web");
    await store.deleteDomain("web");
    await store.putDomain(web);
    assert.deepEqual(await store.domains(), [{ ...all, pausedByUser: true }]);
  });

  testWith("keeps deployments by their names", async (store) => {
    const web = aDeployment("web");
    const whole: DeploymentRecord = {
      ...aDeployment("all"),
      imageFormat: "raw",
      size: 7,
      speed: 5,
      machine: { xml: "<domain/>", args: ["-m", "1G"] },
      keepDisk: true,
      steps: [{ name: "export", ms: 3 }],
      onSourceError: { holdMs: Number.POSITIVE_INFINITY, afterwards: "pause" },
    };
    assert.deepEqual(await store.deployments(), []);
    await store.putDeployment(web);
    await store.putDeployment(whole);
    await store.putDeployment({ ...web, state: "ready" });
    assert.deepEqual(await store.deployments(), [whole, { ...web, state: "ready" }]);
    await store.deleteDeployment("all");
    await store.deleteDeployment("all");
    assert.deepEqual(await store.deployments(), [{ ...web, state: "ready" }]);
  });

  testWith("has the newest job first, whatever the clock and later changes say", async (store) => {
    await store.putJob(aJob("b", "1", { createdAt: 900 }));
    await store.putJob(aJob("a", "2", { createdAt: 100 }));
    await store.putJob(aJob("c", "1", { createdAt: 500 }));
    const reason = { code: "source-lost", message: "Connection refused", offset: 4096, length: 512 } as const;
    const changed = aJob("b", "1", { createdAt: 900, state: "waiting", reason, speed: 5, startedAt: 901 });
    await store.putJob(changed);
    assert.deepEqual(await store.job("b"), changed);
    assert.deepEqual(await idsOf(store, {}), ["c", "a", "b"]);
  });

  testWith("finds jobs by disk, state and place", async (store) => {
    const states: JobState[] = ["completed", "running", "failed", "completed", "paused"];
    for (const [index, state] of states.entries()) await store.putJob(aJob(`j${index}`, `${index % 2}`, { state }));
    assert.deepEqual(await idsOf(store, { disk: "0" }), ["j4", "j2", "j0"]);
    assert.deepEqual(await idsOf(store, { states: ["completed", "failed"] }), ["j3", "j2", "j0"]);
    assert.deepEqual(await idsOf(store, { states: [] }), []);
    assert.deepEqual(await idsOf(store, { limit: 2 }), ["j4", "j3"]);
    assert.deepEqual(await idsOf(store, { before: "j3", limit: 2 }), ["j2", "j1"]);
    assert.deepEqual(await idsOf(store, { before: "j3", disk: "0", states: ["completed"] }), ["j0"]);
    assert.deepEqual(await idsOf(store, { before: "j0" }), []);
    await assert.rejects(idsOf(store, { before: "j9" }), { code: "not-found", message: /'j9'/ });
  });

  testWith("keeps limits by their places", async (store) => {
    await store.putSpeedLimit({ place: "nbd://host/", speed: 5 });
    await store.putSpeedLimit({ place: "all", speed: 7 });
    await store.putSpeedLimit({ place: "nbd://host/", speed: null });
    const left = { place: "nbd://host/", speed: null };
    assert.deepEqual(await store.speedLimits(), [{ place: "all", speed: 7 }, left]);
    await store.deleteSpeedLimit("all");
    await store.deleteSpeedLimit("all");
    assert.deepEqual(await store.speedLimits(), [left]);
  });

  testWith("numbers events in ascending order", async (store) => {
    const told = [];
    for (const disk of ["web", undefined, "db", "web"]) {
      told.push(await store.addEvent({ ...anEvent(), ...(disk !== undefined && { disk }) }));
    }
    const ids = told.map(({ id }) => id);
    assert.deepEqual(
      ids,
      [...ids].sort((a, b) => a - b),
    );
    assert.equal(new Set(ids).size, 4);
    assert.equal(await store.lastEvent(), ids[3]);
    assert.deepEqual(await store.events({ limit: ALL }), told);
    assert.deepEqual(await store.events({ disk: "web", limit: ALL }), [told[0], told[3]]);
    assert.deepEqual(await store.events({ after: ids[1] as number, limit: 1 }), [told[2]]);
    assert.deepEqual(await store.events({ after: ids[3] as number, limit: ALL }), []);
  });

  testWith("puts a job with its event", async (store) => {
    const job = aJob("j", "1", { state: "running" });
    const { id } = await store.addEvent(anEvent(), job);
    assert.deepEqual([await store.job("j"), await store.lastEvent()], [job, id]);
  });

  testWith("never gives the id of an event that it has forgotten", async (store) => {
    await store.addEvent(anEvent());
    const { id } = await store.addEvent(anEvent());
    await store.prune({ events: 0, jobs: 0 });
    assert.deepEqual(await store.events({ limit: ALL }), []);
    assert.equal(await store.lastEvent(), id);
    assert((await store.addEvent(anEvent())).id > id);
  });

  testWith("forgets the oldest events, and the oldest of the jobs that have ended", async (store) => {
    const states: JobState[] = [
      "completed",
      "running",
      "cancelled",
      "created",
      "failed",
      "waiting",
      "completed",
      "paused",
    ];
    for (const [index, state] of states.entries()) await store.putJob(aJob(`j${index}`, "1", { state }));
    const events: EventRecord[] = [];
    for (let count = 0; count < 5; count++) events.push(await store.addEvent(anEvent()));
    await store.prune({ events: 5, jobs: 4 });
    assert.equal((await idsOf(store, {})).length, 8);
    assert.deepEqual(await store.events({ limit: ALL }), events);
    await store.prune({ events: 2, jobs: 1 });
    assert.deepEqual(await idsOf(store, {}), ["j7", "j6", "j5", "j3", "j1"]);
    assert.deepEqual(await store.events({ limit: ALL }), events.slice(3));
  });

  testWith("answers nothing once it is closed", async (store) => {
    await store.close();
    await store.close();
    const shutdown = { code: "shutdown" };
    await assert.rejects(store.disks(), shutdown);
    await assert.rejects(store.putDisk(aDisk("1", "web")), shutdown);
    await assert.rejects(store.putJob(aJob("j", "1")), shutdown);
    await assert.rejects(store.addEvent(anEvent()), shutdown);
    await assert.rejects(store.lastEvent(), shutdown);
    await assert.rejects(store.prune({ events: 1, jobs: 1 }), shutdown);
  });
}

async function idsOf(store: Store, query: Partial<Parameters<Store["jobs"]>[0]>): Promise<string[]> {
  return (await store.jobs({ limit: ALL, ...query })).map(({ id }) => id);
}

export function aDisk(id: string, name: string): DiskRecord {
  return {
    id,
    name,
    state: "ready",
    settings: {
      image: `/images/${name}.qcow2`,
      readOnly: false,
      copyOnRead: true,
      onSourceError: { holdMs: 30_000, afterwards: "error" },
    },
    address: { kind: "unix", path: `/run/${name}.sock` },
    ownsFile: true,
    createdAt: 1_790_000_000_000,
  };
}

export function anExport(name: string): ExportRecord {
  const { settings, address, createdAt } = aDisk("", name);
  return { name, settings, address, createdAt };
}

export function aDeployment(name: string): DeploymentRecord {
  return {
    id: `${name}@1`,
    name,
    state: "making",
    image: "https://images.example/debian.qcow2",
    source: "image-debian",
    owner: "qemu",
    overlay: `/images/${name}.qcow2`,
    format: "qcow2",
    onSourceError: { holdMs: 30_000, afterwards: "error" },
    hydrated: false,
    steps: [],
    createdAt: 1_790_000_000_000,
  };
}

export function aJob(id: string, disk: string, parts: Partial<JobRecord> = {}): JobRecord {
  const amounts = { offset: 0, length: 1024, localBytes: 0, missingBytes: 1024, copiedBytes: 0 };
  return { id, disk, state: "created", priority: 0, ...amounts, createdAt: 1_790_000_000_000, ...parts };
}

export function anEvent(): Omit<EventRecord, "id"> {
  return {
    time: 1_790_000_000_000,
    type: "job-waiting",
    message: "It waits",
    code: "source-lost",
    offset: 0,
    length: 512,
  };
}
