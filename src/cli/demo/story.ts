/**
 * The story of the product: a disk is used while it arrives from a repository over HTTP. Its daemon is killed with -9 half-way and goes
 * on where it was, the repository dies and comes back, and at the end the disk stands alone and every byte is verified against a model
 * that no image took part in.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Job } from "../../client/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { createImage, openImage } from "../../image/index.ts";
import { printLines } from "../output.ts";
import { ProgressMeter } from "../progress.ts";
import { formatDuration, formatSize } from "../units.ts";
import { DaemonChild } from "./daemon-child.ts";
import { DemoGuest, WrongRead } from "./guest.ts";
import { DiskModel } from "./model.ts";
import { Repository } from "./repository.ts";
import { firstDifference, qemuImg, writeModel } from "./verify.ts";

const MEBIBYTES = 192;
const GUEST_WRITES = 300;
/** Bytes a second: slow enough to be watched, and slower while daemon and repository die. */
const SPEED = 12 * 1024 ** 2;
const SLOW = 2 * 1024 ** 2;
const DISK = "vm1";
const LOOK_MS = 150;
/** How long the repository is away. */
const AWAY_MS = 2_500;
/** qemu-img's exit code for an image that has wasted space and no other fault. */
const EXIT_LEAKS = 3;

/** What the demo found, for `--json`. */
export interface DemoResult {
  readonly format: FormatName;
  readonly "virtual-size": number;
  /** From the order of the disk to the guest's first read, in milliseconds. */
  readonly "usable-after-ms": number;
  /** Missing at first, after kill -9, and at the end. */
  readonly "missing-bytes": readonly number[];
  /** The longest that a request of the guest took over the death of the daemon, in milliseconds. */
  readonly "outage-ms": number;
  /** The guest's reads while there was no repository. */
  readonly "reads-without-source": number;
  /** Acknowledged to the guest. */
  readonly writes: number;
  readonly "verified-bytes": number;
  readonly "qemu-img": "agrees" | "not installed";
  /** What was not as it must be, a sentence; absent when all was. */
  readonly failure?: string;
}

/** Something is not as it must be: the verdict, not an error of the demo. */
class Wrong extends Error {}

export class Demo implements AsyncDisposable {
  readonly #format: FormatName;
  readonly #isShown: boolean;
  readonly #signal: AbortSignal;
  /** Ends what still waits when the story has broken off. */
  readonly #over = new AbortController();
  readonly #directory: string;
  readonly #model = new DiskModel(MEBIBYTES, GUEST_WRITES);
  readonly #repository: Repository;
  readonly #daemon: DaemonChild;
  readonly #missing: number[] = [];
  #guest: DemoGuest | undefined;
  #page = "";
  #dataBytes = 0;
  #usableMs = 0;
  #outageMs = 0;
  #localReads = 0;
  #written = 0;
  #verified = 0;
  #qemu: DemoResult["qemu-img"] = "not installed";

  /** @param directory an empty one; all that the demo makes lies in it */
  constructor(directory: string, format: FormatName, isShown: boolean, signal: AbortSignal) {
    this.#directory = directory;
    this.#format = format;
    this.#isShown = isShown;
    this.#signal = AbortSignal.any([signal, this.#over.signal]);
    this.#repository = new Repository(this.#base);
    this.#daemon = new DaemonChild(directory);
  }

  async run(): Promise<DemoResult> {
    let failure: string | undefined;
    try {
      await this.#begin();
      const guest = await this.#deploy();
      this.#guest = guest;
      await Promise.race([this.#fill(guest), guest.failed.then(() => new Promise<never>(() => {}))]);
      await this.#verify();
    } catch (error) {
      this.#signal.throwIfAborted();
      if (!(error instanceof Wrong) && !(error instanceof WrongRead)) throw error;
      failure = error.message;
    }
    return {
      format: this.#format,
      "virtual-size": this.#model.length,
      "usable-after-ms": Math.round(this.#usableMs),
      "missing-bytes": this.#missing,
      "outage-ms": Math.round(this.#outageMs),
      "reads-without-source": this.#localReads,
      writes: this.#written,
      "verified-bytes": this.#verified,
      "qemu-img": this.#qemu,
      ...(failure !== undefined && { failure }),
    };
  }

  /** Starts the daemon again, for those who want to look at what the story has left. @returns the address of the page */
  async reopen(): Promise<string> {
    await this.#daemon.start(this.#repository.url);
    return this.#page;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await this.#guest?.[Symbol.asyncDispose]();
    await this.#daemon[Symbol.asyncDispose]();
    await this.#repository[Symbol.asyncDispose]();
  }

  get #base(): string {
    return join(this.#directory, "repository/debian.qcow2");
  }

  get #overlay(): string {
    return join(this.#directory, `state/images/${DISK}.${this.#format}`);
  }

  #say(...lines: string[]): void {
    if (this.#isShown) printLines(...lines);
  }

  /** The daemon, whose page can be looked at from now on, and the image that the repository has. */
  async #begin(): Promise<void> {
    await this.#repository.start();
    await this.#daemon.start(this.#repository.url);
    this.#page = await this.#daemon.pageUrl();
    this.#say(`streamdisk demo: a disk is used while it arrives. Look on at ${this.#page}`, "");
    const { length, pieceBytes } = this.#model;
    await mkdir(join(this.#directory, "repository"));
    await createImage(this.#base, { format: "qcow2", size: length });
    await using base = await openImage(this.#base, { format: "qcow2" });
    for (let offset = 0; offset < length; offset += pieceBytes) {
      this.#signal.throwIfAborted();
      const piece = this.#model.basePiece(offset);
      if (piece !== undefined) await base.node.write(offset, piece);
      this.#dataBytes += piece?.length ?? 0;
    }
    const copyMs = (this.#dataBytes / SPEED) * 1000;
    const rate = `${formatSize(SPEED)}/s`;
    this.#say(
      `1  A repository on this machine has an image of ${formatSize(length)}, of which ${formatSize(this.#dataBytes)} are data.`,
      `   To copy it first, at the ${rate} of this demo, would take ${formatDuration(copyMs)}.`,
    );
  }

  async #deploy(): Promise<DemoGuest> {
    const backing = `${this.#repository.url}debian.qcow2`;
    const { client } = this.#daemon;
    this.#say("", `2  streamdisk disk create ${DISK} --backing ${backing} --stream --speed 12M`);
    const began = performance.now();
    const body = { name: DISK, format: this.#format, backing, stream: { speed: SPEED } } as const;
    const { uri = "" } = await client.call("createDisk", { body }, { signal: this.#signal });
    const guest = await DemoGuest.start(uri, this.#model);
    this.#usableMs = performance.now() - began;
    this.#say(
      `   Its guest has read the first sector after ${formatDuration(this.#usableMs)}, and reads and writes from now on.`,
    );
    return guest;
  }

  async #fill(guest: DemoGuest): Promise<void> {
    await this.#tally();
    await this.#watch(({ missingBytes }) => missingBytes <= this.#dataBytes / 2);
    await this.#killDaemon(guest);
    await this.#loseRepository(guest);
    await this.#watch(({ state }) => state === "completed");
    await guest.stop();
    this.#written = guest.written;
  }

  async #killDaemon(guest: DemoGuest): Promise<void> {
    this.#say("", `3  streamdisk speed ${DISK} 2M, and kill -9 of the daemon: nobody has a chance to tidy up.`);
    await this.#daemon.client.disk(DISK).setSpeed(SLOW);
    guest.takeFigures();
    await this.#daemon.end("SIGKILL");
    await this.#daemon.start(this.#repository.url);
    const before = guest.written;
    while (guest.written === before && before < this.#model.writes.length) await this.#pause(LOOK_MS);
    this.#outageMs = guest.takeFigures().slowestMs;
    this.#say(
      `   It is started again. The guest waited ${formatDuration(this.#outageMs)} at most, and no request of it failed.`,
      `   Its ${before} writes are there, flushed or not; the stream goes on where it was.`,
    );
    await this.#tally(": what had come in the last two seconds is fetched again");
  }

  async #loseRepository(guest: DemoGuest): Promise<void> {
    this.#say("", "4  The repository dies.");
    await guest.stayLocal();
    await this.#repository.die();
    guest.takeFigures();
    const { reason } = await this.#watch(({ state }) => state === "waiting");
    this.#say(`   The stream waits: ${reason?.message ?? "nobody knows why"}`);
    await this.#pause(AWAY_MS);
    const { reads, slowestMs } = guest.takeFigures();
    this.#localReads = reads;
    if (reads === 0) throw new Wrong("the guest could not read what is local while the repository was away");
    this.#say(
      `   The guest works on in what it has: ${reads} reads meanwhile, of which the slowest took ${formatDuration(slowestMs)}.`,
    );
    await this.#repository.start();
    guest.roam();
    this.#say("   The repository is back, and nobody has to tell the stream.", `   streamdisk speed ${DISK} max`);
    await this.#daemon.client.disk(DISK).setSpeed(null);
  }

  async #verify(): Promise<void> {
    const { hydrated, missingBytes = 0 } = await this.#daemon.client.disk(DISK).info();
    this.#missing.push(missingBytes);
    if (hydrated !== true) throw new Wrong("the stream has completed and the disk still needs its repository");
    await this.#repository.die();
    await rm(this.#base);
    const exit = await this.#daemon.end("SIGTERM");
    if (exit !== 0) throw new Wrong(`the daemon ended with ${exit}`);
    this.#say("", "5  The link is dropped, the repository is deleted, the daemon has ended: the disk stands alone.");
    const different = await firstDifference(this.#overlay, this.#format, this.#model, this.#written, this.#signal);
    if (different !== undefined) throw new Wrong(`byte ${different} of the image is not what was written`);
    this.#verified = this.#model.length;
    this.#say(
      `   ${formatSize(this.#verified)} read back: every byte is what the image held or the guest wrote (${this.#written} writes).`,
    );
    await this.#askQemu();
    this.#say("", "All is as it must be: the disk is complete and right, although its daemon was killed on the way.");
  }

  async #askQemu(): Promise<void> {
    const check = await qemuImg(["check", "-f", this.#format, this.#overlay], this.#signal);
    if (check === undefined) {
      this.#say("   qemu-img is not installed, so it was not asked.");
      return;
    }
    const isLeaky = check.exit === EXIT_LEAKS;
    if (check.exit !== 0 && !isLeaky) throw new Wrong(`qemu-img check says: ${check.said}`);
    this.#say(`   qemu-img check: ${check.said}${isLeaky ? " That is space which the kill wasted, no harm." : ""}`);
    const expected = join(this.#directory, "expected.raw");
    await writeModel(expected, this.#model, this.#written, this.#signal);
    const images = ["-f", this.#format, "-F", "raw", this.#overlay, expected];
    const compare = await qemuImg(["compare", ...images], this.#signal);
    if (compare?.exit !== 0) throw new Wrong(`qemu-img compare says: ${compare?.said}`);
    this.#say(`   qemu-img compare: ${compare.said}`);
    this.#qemu = "agrees";
  }

  /** Says how much is missing, when the stream has found out: what the image does not have is zero, and not missing. */
  async #tally(why = ""): Promise<void> {
    const { missingBytes } = await this.#until(({ missingBytes }) => missingBytes <= this.#dataBytes);
    this.#missing.push(missingBytes);
    this.#say(`   ${formatSize(missingBytes)} are missing${why}.`);
  }

  /** Shows how the stream goes until it is so far. */
  async #watch(isSoFar: (job: Job) => boolean): Promise<Job> {
    const meter = new ProgressMeter(this.#isShown, process.stdout, "   ");
    const total = this.#dataBytes;
    try {
      return await this.#until((job) => {
        const { missingBytes, rate, etaSeconds } = job;
        meter.update({ done: total - missingBytes, total, rate, eta: etaSeconds });
        return isSoFar(job);
      });
    } finally {
      meter.finish();
    }
  }

  async #until(isSoFar: (job: Job) => boolean): Promise<Job> {
    for (;;) {
      const job = await this.#daemon.client.disk(DISK).streamInfo();
      if (isSoFar(job)) return job;
      const { state, reason } = job;
      if (state === "failed" || state === "cancelled" || state === "completed") {
        throw new Wrong(`the stream is ${state}: ${reason?.message ?? "nobody knows why"}`);
      }
      await this.#pause(LOOK_MS);
    }
  }

  #pause(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: this.#signal });
  }
}
