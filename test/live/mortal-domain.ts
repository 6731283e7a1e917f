/** A real guest whose disk comes from a source that dies, looked after by a real daemon; and what the test knows of it. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Domain } from "../../src/api/index.ts";
import { parseSourcePolicy, sentPolicy } from "../../src/cli/source-policy.ts";
import { QmpClient } from "../../src/domain/index.ts";
import { temporaryDirectory } from "../support/cli.ts";
import { DaemonProcess } from "../support/daemon.ts";
import type { Random } from "../support/draw.ts";
import { act } from "../support/guest/acts.ts";
import { Guest } from "../support/guest/guest.ts";
import { makeBootFiles } from "../support/guest/initramfs.ts";
import { qemuCheckStatus } from "../support/peer-images.ts";
import { qemuImg } from "../support/qemu.ts";
import { halfNoise } from "../support/qemu-disk.ts";
import type { Death, DyingSource } from "./dying-source.ts";

const MIB = 2 ** 20;
const SECTOR = 512;
const SIZE = 24 * MIB;
/** The guest's acts happen below, so that what lies above is missing when the source has died. */
const TOUCHED = 8 * MIB;
/** A monitor that takes longer hangs. */
const PATIENCE_MS = 20_000;

/** Who has the overlay; of `elsewhere` QEMU has its source too, and the daemon may only ask that. */
export type Owner = "engine" | "qemu" | "elsewhere";

export interface MortalOptions {
  readonly owner: Owner;
  readonly policy: string;
  readonly death: Death;
  readonly random: Random;
  /** Of the guest's device. */
  readonly rerror: "stop" | "report";
}

export class MortalDomain implements AsyncDisposable {
  readonly daemon: DaemonProcess;
  readonly source: DyingSource;
  readonly guest: Guest;
  readonly model: Buffer;
  /** Another monitor of its QEMU. */
  readonly monitor: QmpClient;
  readonly #image: string;
  readonly #directory: string;
  readonly #options: MortalOptions;
  #acts = 0;
  #asking = true;
  #asked: Promise<void>;
  #slowestMs = 0;
  #missing = SIZE;

  private constructor(
    options: MortalOptions,
    parts: {
      daemon: DaemonProcess;
      source: DyingSource;
      guest: Guest;
      model: Buffer;
      image: string;
      directory: string;
    },
  ) {
    this.daemon = parts.daemon;
    this.source = parts.source;
    this.guest = parts.guest;
    this.model = parts.model;
    this.#image = parts.image;
    this.#directory = parts.directory;
    this.#options = options;
    this.monitor = new QmpClient(join(parts.directory, "own.qmp"), { timeoutMs: PATIENCE_MS });
    this.#asked = this.#askOn();
    this.#asked.catch(() => {});
  }

  static async start(t: TestContext, options: MortalOptions): Promise<MortalDomain> {
    const { owner, policy, death, rerror } = options;
    const directory = temporaryDirectory(t);
    const base = join(directory, "base.raw");
    const model = halfNoise(SIZE);
    writeFileSync(base, model);
    const source = await death.start(base);
    t.after(() => source[Symbol.asyncDispose]());
    const daemon = new DaemonProcess(directory, ["--allow", source.uri]);
    t.after(() => daemon[Symbol.asyncDispose]());
    await daemon.start();
    const { image, node } = await makeDisk(daemon, { owner, directory, uri: source.uri, policy });
    const monitors = ["own.qmp", "domain.qmp"].flatMap((name) => [
      ...["-qmp", `unix:${join(directory, name)},server=on,wait=off`],
    ]);
    const device = `virtio-blk-pci,id=virtio-disk0,drive=top,rerror=${rerror},werror=${rerror}`;
    const disk = ["-blockdev", JSON.stringify(node), "-device", device, "-action", "reboot=reset"];
    const { guest } = await Guest.boot(makeBootFiles(directory), [...monitors, ...disk]);
    t.after(() => guest[Symbol.asyncDispose]());
    const domain = new MortalDomain(options, { daemon, source, guest, model, image, directory });
    t.after(() => domain[Symbol.asyncDispose]());
    await daemon.client.call("addDomain", { body: { name: "vm", qmp: join(directory, "domain.qmp") } });
    await domain.act(4);
    return domain;
  }

  /** How it is now. */
  show(): Promise<Domain> {
    return this.daemon.client.call("getDomain", { params: { domain: "vm" } });
  }

  async setPolicy(policy: string): Promise<void> {
    const body = sentPolicy(parseSourcePolicy(policy));
    await this.daemon.client.call("setPolicy", { params: { disk: "vm:vda" }, body });
  }

  /** What the guest does and sees is right. */
  async act(many: number): Promise<void> {
    const part = this.model.subarray(0, TOUCHED);
    for (let i = 0; i < many; i++) await act(this.guest, part, this.#options.random, ++this.#acts);
  }

  /** The guest reads something that only the source has. @returns whether that was right, when it is there */
  async readMissing(): Promise<boolean> {
    // What is data, from the top down.
    do this.#missing -= MIB / 4;
    while (this.model.subarray(this.#missing, this.#missing + 4096).every((byte) => byte === 0));
    assert(this.#missing > TOUCHED, "something is left that is missing");
    const bytes = this.model.subarray(this.#missing, this.#missing + 16 * SECTOR);
    const answer = await this.guest.does(`read ${this.#missing / SECTOR} 16`);
    return answer.slice(0, 32) === createHash("md5").update(bytes).digest("hex");
  }

  async until(condition: (domain: Domain) => boolean | Promise<boolean>, what: string): Promise<Domain> {
    // Long for any machine: it only ends a test that would hang.
    for (let i = 0; i < 1200; i++) {
      const domain = await this.show();
      if (await condition(domain)) return domain;
      await sleep(50);
    }
    assert.fail(`never ${what}: ${JSON.stringify(await this.show())}\n${this.guest.log}`);
  }

  /** Requests of the guest that wait for the source. */
  async held(): Promise<number> {
    const { client } = this.daemon;
    if (this.#options.owner === "engine") return (await client.disk("base").info()).source?.held ?? 0;
    return (await client.call("listExports", {})).exports[0]?.source?.held ?? 0;
  }

  async #askOn(): Promise<void> {
    while (this.#asking) {
      const began = performance.now();
      await this.monitor.execute("query-status", {});
      this.#slowestMs = Math.max(this.#slowestMs, performance.now() - began);
      await sleep(50);
    }
  }

  /** How the daemon finds the source. */
  async sourceState(): Promise<string | undefined> {
    const { client } = this.daemon;
    if (this.#options.owner === "engine") return (await client.disk("base").info()).source?.state;
    return (await client.call("listExports", {})).exports[0]?.source?.state;
  }

  stopAsking(): void {
    this.#asking = false;
  }

  /** Resolves when the power button of the machine was pressed. */
  async poweredDown(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.monitor.onEvent(({ name }) => {
        if (name === "POWERDOWN") resolve();
      });
    });
  }

  /** Ends the test's questions to QEMU. @returns how long the slowest answer took, in milliseconds */
  async answered(): Promise<number> {
    this.#asking = false;
    await this.#asked;
    return Math.round(this.#slowestMs);
  }

  /** The guest ends, and its disk holds what it wrote and what the base has. */
  async verify(): Promise<void> {
    await this.act(3);
    await this.answered();
    await this.guest.powerOff();
    await this.compare();
  }

  async compare(): Promise<void> {
    assert.equal((await this.daemon.stop())?.exit, 0);
    if (this.#options.owner !== "engine") {
      // Its backing file was an export of the daemon.
      qemuImg("rebase", "-u", "-f", "qcow2", "-b", join(this.#directory, "base.raw"), "-F", "raw", this.#image);
    }
    const { corruptions = 0, "check-errors": errors } = qemuCheckStatus(this.#image, "qcow2");
    assert.deepEqual([corruptions, errors], [0, 0]);
    const expected = join(this.#directory, "expected.raw");
    writeFileSync(expected, this.model);
    qemuImg("compare", "-q", "-f", "qcow2", "-F", "raw", this.#image, expected);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#asking = false;
    this.monitor[Symbol.dispose]();
    await this.#asked.catch(() => {});
  }
}

/** @returns the overlay, and the node of QEMU's that has it */
async function makeDisk(
  { client, images }: DaemonProcess,
  { owner, uri, policy }: { owner: Owner; directory: string; uri: string; policy: string },
): Promise<{ image: string; node: object }> {
  const onSourceError = sentPolicy(parseSourcePolicy(policy));
  if (owner === "engine") {
    const body = { name: "base", backing: uri, backingFormat: "raw" as const, onSourceError };
    const { image, uri: served = "" } = await client.call("createDisk", { body });
    const path = new URL(served).searchParams.get("socket");
    return {
      image,
      node: { driver: "nbd", "node-name": "top", server: { type: "unix", path }, "reconnect-delay": 60 },
    };
  }
  const body = { name: "base", image: uri, format: "raw" as const, onSourceError };
  const served = owner === "qemu" ? ((await client.call("addExport", { body })).uri ?? "") : uri;
  const image = join(images, "vm.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-b", served, "-F", "raw", image);
  return { image, node: { driver: "qcow2", "node-name": "top", file: { driver: "file", filename: image } } };
}
