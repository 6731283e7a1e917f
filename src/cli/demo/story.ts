/**
 * The story of the product: a machine runs while its disk arrives from a slow image repository. The daemon is killed with -9 and goes on where it was,
 * the repository dies and comes back, the machine lives on; at the end its disk stands alone, and every byte of it is verified
 * against a model that no image took part in.
 */
import { mkdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { DiskHandle, Job } from "../../client/index.ts";
import type { FormatName } from "../../formats/index.ts";
import { createImage, openImage } from "../../image/index.ts";
import { formatDuration, formatSize } from "../units.ts";
import { ClientGuest } from "./client-guest.ts";
import { DaemonChild } from "./daemon-child.ts";
import type { DemoGuest } from "./guest.ts";
import { chooseGuest, type GuestChoice } from "./guest-choice.ts";
import { firstBlock } from "./guest-program.ts";
import { Machine, machineArguments } from "./machine.ts";
import { type Deeds, DiskModel } from "./model.ts";
import { type CellKind, PANEL_CELLS } from "./panel.ts";
import { DELAY_MS, RATE, Repository } from "./repository.ts";
import { Stage } from "./stage.ts";
import { type ExpectedDisk, firstDifference, qemuImg, writeExpected } from "./verify.ts";

const MIB = 1024 ** 2;
const MEBIBYTES = 192;
const NAME = "vm1";
/** Bytes a second of the stream: little while the machine boots and while something dies, so that there is something left to see. */
const CALM = MIB;
const LIVELY = 8 * MIB;
const LOOK_MS = 150;
/** A guest and a stream that stand still for so long will do so for ever. */
const PATIENCE_MS = 120_000;
/** How many signs of life are waited for while something is away. */
const SIGNS = 6;
/** qemu-img's exit code for an image that has wasted space and no other fault. */
const EXIT_LEAKS = 3;

/** What the demo found, for `--json`. */
export interface DemoResult {
  readonly format: OverlayFormat;
  readonly guest: GuestChoice["kind"];
  /** Why that is no machine, and how to have one. */
  readonly "no-machine"?: string;
  readonly "virtual-size": number;
  readonly "data-bytes": number;
  /** How long it takes to fetch all data first, in milliseconds. */
  readonly "full-copy-ms": number;
  /** From the order of the disk to the first line of its guest, in milliseconds. */
  readonly "first-line-ms": number;
  /** Missing at first, after kill -9, and at the end. */
  readonly "missing-bytes": readonly number[];
  /** The longest that the guest gave no sign of life over kill -9 of the daemon, in milliseconds. */
  readonly "outage-ms": number;
  /** The guest's signs of life while there was no repository. */
  readonly "beats-without-source": number;
  readonly beats: number;
  readonly looks: number;
  readonly "verified-bytes": number;
  readonly "qemu-img": "agrees" | "not installed";
  /** What was not as it must be, a sentence; absent when all was. */
  readonly failure?: string;
}

/** One that has a backing file. */
export type OverlayFormat = Exclude<FormatName, "raw">;

/** Something is not as it must be: the verdict, not an error of the demo. */
class Wrong extends Error {}

export class Demo implements AsyncDisposable {
  readonly #format: OverlayFormat;
  readonly #stage: Stage;
  readonly #signal: AbortSignal;
  /** Ends what still waits when the story has broken off. */
  readonly #over = new AbortController();
  readonly #directory: string;
  readonly #model = new DiskModel(MEBIBYTES);
  readonly #first = firstBlock(this.#model);
  readonly #repository: Repository;
  readonly #daemon: DaemonChild;
  readonly #missing: number[] = [];
  #guest: DemoGuest | undefined;
  #choice: GuestChoice = { kind: "client", why: "" };
  #page = "";
  #disk: DiskHandle;
  #overlay = "";
  #dataBytes = 0;
  #copyMs = 0;
  #firstLineMs = 0;
  #lastMissing = 0;
  #outageMs = 0;
  #beatsAlone = 0;
  #verified = 0;
  #qemu: DemoResult["qemu-img"] = "not installed";

  /** @param directory an empty one; all that the demo makes lies in it */
  constructor(directory: string, format: OverlayFormat, isShown: boolean, signal: AbortSignal) {
    this.#directory = directory;
    this.#format = format;
    this.#stage = new Stage(isShown);
    this.#signal = AbortSignal.any([signal, this.#over.signal]);
    this.#repository = new Repository(this.#base);
    this.#daemon = new DaemonChild(directory);
    this.#disk = this.#daemon.client.disk(NAME);
  }

  async run(): Promise<DemoResult> {
    let failure: string | undefined;
    try {
      await this.#begin();
      const choice = chooseGuest(join(this.#directory, "boot"), this.#signal);
      let isChosen = false;
      // It is waited for after the copy, which may break off before.
      choice.then(
        () => {
          isChosen = true;
        },
        () => {},
      );
      await this.#copyFirst();
      if (!isChosen) this.#stage.tell("Kernel and busybox are still being fetched, as packages.");
      const guest = await this.#deploy(await choice);
      await this.#watch(guest, ({ missingBytes }) => missingBytes <= this.#dataBytes / 2);
      await this.#killDaemon(guest);
      await this.#loseRepository(guest);
      await this.#watch(guest, ({ state }) => state === "completed");
      await this.#end(guest);
      await this.#verify(guest.diary.deeds);
      this.#sumUp();
    } catch (error) {
      this.#signal.throwIfAborted();
      if (!(error instanceof Wrong)) throw error;
      failure = error.message;
    } finally {
      this.#stage.panel.finish();
    }
    const { beats, looks } = this.#guest?.diary.deeds ?? { beats: 0, looks: 0 };
    return {
      format: this.#format,
      guest: this.#choice.kind,
      ...(this.#choice.kind === "client" && { "no-machine": this.#choice.why }),
      "virtual-size": this.#model.length,
      "data-bytes": this.#dataBytes,
      "full-copy-ms": Math.round(this.#copyMs),
      "first-line-ms": Math.round(this.#firstLineMs),
      "missing-bytes": this.#missing,
      "outage-ms": Math.round(this.#outageMs),
      "beats-without-source": this.#beatsAlone,
      ...{ beats, looks },
      "verified-bytes": this.#verified,
      "qemu-img": this.#qemu,
      ...(failure !== undefined && { failure }),
    };
  }

  /**
   * Starts the daemon again, and the machine from what is its own now, for those who want to look at what the story has left.
   *
   * @returns what there is to look at, and the address of the page
   */
  async reopen(): Promise<string[]> {
    await this.#daemon.start(this.#repository.url);
    if (this.#choice.kind === "client") return ["The daemon is up again, for you to look at the disk:", this.#page];
    await this.#daemon.client.call("startDomain", { params: { domain: NAME }, body: {} });
    return [
      `streamdisk domain start ${NAME}`,
      "The machine boots again, from what is its own now. Look at it and at its disk:",
      this.#page,
    ];
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

  /** The daemon, whose page can be looked at from now on, and the image that the repository has. */
  async #begin(): Promise<void> {
    await this.#repository.start();
    await this.#daemon.start(this.#repository.url);
    this.#page = await this.#daemon.pageUrl();
    this.#stage.open("streamdisk demo: a machine runs while its disk arrives. Look on at", this.#page);
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
    this.#lastMissing = this.#dataBytes;
    await base.node.write(0, this.#first);
  }

  /** What one does without streamdisk, and does not even write down. */
  async #copyFirst(): Promise<void> {
    const { length } = this.#model;
    this.#stage.title(
      1,
      `An image of ${formatSize(length)}, of which ${formatSize(this.#dataBytes)} are data, lies on an HTTP server that is ${DELAY_MS} ms away and gives ${formatSize(RATE)}/s. A full copy first, to compare:`,
    );
    const began = performance.now();
    const { size } = await stat(this.#base);
    const headers = { range: `bytes=0-${size - 1}` };
    const { body } = await fetch(`${this.#repository.url}debian.qcow2`, { headers, signal: this.#signal });
    const meter = this.#stage.meter();
    let done = 0;
    for await (const piece of body ?? []) {
      done += piece.length;
      meter.update({ done, total: size });
    }
    meter.finish();
    this.#copyMs = performance.now() - began;
    this.#stage.tell(`It took ${formatDuration(this.#copyMs)}, and nothing has booted yet.`);
  }

  async #deploy(choice: GuestChoice): Promise<DemoGuest> {
    this.#choice = choice;
    const image = `${this.#repository.url}debian.qcow2`;
    const isMachine = choice.kind === "machine";
    const how = isMachine ? "--owner engine --qemu '-kernel ...'" : "--export-only";
    this.#stage.title(2, `streamdisk deploy ${image} --name ${NAME} --speed 1M ${how}`);
    if (isMachine) this.#stage.tell(`qemu-system-x86_64 boots from it: kernel and busybox ${choice.from}.`);
    else this.#stage.tell(`The guest is a client of the demo. ${choice.why}`);
    const began = performance.now();
    const { client } = this.#daemon;
    const body = {
      ...{ name: NAME, image, format: this.#format, speed: CALM, owner: "engine" as const, exportOnly: !isMachine },
      ...(isMachine && { machine: machineArguments(choice.kernel, choice.initramfs) }),
    };
    const { disk, overlay, uri = "" } = await client.call("deploy", { body }, { signal: this.#signal });
    this.#disk = client.disk(disk);
    this.#overlay = overlay;
    const guest = isMachine ? await Machine.attach(client, NAME) : await ClientGuest.start(uri, this.#model);
    this.#guest = guest;
    await this.#watch(guest, () => guest.diary.isUp);
    this.#firstLineMs = performance.now() - began;
    const { missingBytes } = await this.#job();
    this.#missing.push(missingBytes);
    this.#stage.tell(
      `Its first line after ${formatDuration(this.#firstLineMs)}, with ${formatSize(missingBytes)} still missing.`,
      `streamdisk speed ${this.#disk.name} 8M`,
    );
    await this.#disk.setSpeed(LIVELY);
    return guest;
  }

  async #killDaemon(guest: DemoGuest): Promise<void> {
    const { diary } = guest;
    this.#stage.title(3, `streamdisk speed ${this.#disk.name} 1M, and kill -9 of the daemon: nobody can tidy up.`);
    await this.#disk.setSpeed(CALM);
    const { beats } = diary.deeds;
    const began = performance.now();
    await this.#daemon.end("SIGKILL");
    await this.#daemon.start(this.#repository.url);
    await this.#watch(guest, () => diary.deeds.beats > beats + 1);
    this.#outageMs = performance.now() - began;
    // Or it would be taken to wait for what dies next.
    await this.#watch(guest, ({ state }) => state === "running");
    const { missingBytes } = await this.#job();
    this.#missing.push(missingBytes);
    this.#stage.tell(
      `It is started again. The guest waited for ${formatDuration(this.#outageMs)} at most, and no request of it failed.`,
      `The stream goes on where it was: ${formatSize(missingBytes)} are missing.`,
    );
  }

  async #loseRepository(guest: DemoGuest): Promise<void> {
    this.#stage.title(4, "The HTTP server dies.");
    await this.#repository.die();
    const { reason } = await this.#watch(guest, ({ state }) => state === "waiting");
    this.#stage.tell(`The stream waits: ${innermost(reason?.message ?? "nobody knows why")}`);
    const { beats } = guest.diary.deeds;
    await this.#watch(guest, () => guest.diary.deeds.beats >= beats + SIGNS);
    this.#beatsAlone = guest.diary.deeds.beats - beats;
    this.#stage.tell(
      `The guest lives on in what it has: beats ${beats + 1} to ${beats + this.#beatsAlone} meanwhile. Only who looks at what is missing waits.`,
    );
    await this.#repository.start();
    this.#stage.tell("The server is back, and nobody has to tell anyone.", `streamdisk speed ${this.#disk.name} max`);
    await this.#disk.setSpeed(null);
  }

  async #end(guest: DemoGuest): Promise<void> {
    const { hydrated, missingBytes = 0 } = await this.#disk.info();
    this.#missing.push(missingBytes);
    if (hydrated !== true) throw new Wrong("the stream has completed and the disk still needs its repository");
    await this.#repository.die();
    await rm(this.#base);
    const { looks } = guest.diary.deeds;
    await this.#watch(guest, () => guest.diary.deeds.looks >= looks + SIGNS);
    this.#stage.title(5, "Nothing is missing: the link is dropped. The image is deleted, and the guest works on.");
    if (this.#choice.kind === "machine") {
      this.#stage.tell(`streamdisk domain stop ${NAME}`);
      await this.#daemon.client.call("stopDomain", { params: { domain: NAME }, body: {} });
    }
    await guest.off();
    const exit = await this.#daemon.end("SIGTERM");
    if (exit !== 0) throw new Wrong(`the daemon ended with ${exit}`);
    this.#stage.tell("The guest is switched off, and the daemon has ended.");
  }

  async #verify(deeds: Deeds): Promise<void> {
    const expected: ExpectedDisk = {
      length: this.#model.length,
      pieceBytes: this.#model.pieceBytes,
      piece: (offset) => this.#model.piece(offset, this.#first, deeds),
    };
    const different = await firstDifference(this.#overlay, this.#format, expected, this.#signal);
    if (different !== undefined) throw new Wrong(`byte ${different} of the image is not what was written`);
    this.#verified = expected.length;
    this.#stage.tell(
      `${formatSize(this.#verified)} read back: every byte is what the image held or the guest wrote (${deeds.beats} beats, ${deeds.looks} looks, whose sums the guest found right).`,
    );
    const check = await qemuImg(["check", "-f", this.#format, this.#overlay], this.#signal);
    if (check === undefined) return this.#stage.tell("qemu-img is not installed, so it was not asked.");
    const isLeaky = check.exit === EXIT_LEAKS;
    if (check.exit !== 0 && !isLeaky) throw new Wrong(`qemu-img check says: ${check.said}`);
    this.#stage.tell(`qemu-img check: ${check.said}${isLeaky ? " That is space which the kill wasted, no harm." : ""}`);
    const raw = join(this.#directory, "expected.raw");
    await writeExpected(raw, expected, this.#signal);
    const compare = await qemuImg(["compare", "-f", this.#format, "-F", "raw", this.#overlay, raw], this.#signal);
    if (compare?.exit !== 0) throw new Wrong(`qemu-img compare says: ${compare?.said}`);
    this.#stage.tell(`qemu-img compare: ${compare.said}`);
    this.#qemu = "agrees";
  }

  #sumUp(): void {
    const after = formatDuration(this.#copyMs + this.#firstLineMs);
    this.#stage.open(
      "",
      `All is as it must be. The guest's first line came after ${formatDuration(this.#firstLineMs)}; with a full copy first, after ${after}. It outlived its daemon and its image, and its disk is complete.`,
    );
  }

  /** Shows how the guest and its disk are until it is so far. */
  async #watch({ diary }: DemoGuest, isSoFar: (job: Job) => boolean): Promise<Job> {
    const total = this.#dataBytes;
    let last = "";
    let since = 0;
    for (;;) {
      const job = await this.#job();
      const { missingBytes, rate, etaSeconds, state, reason } = job;
      const moment = { done: Math.max(0, total - missingBytes), total, rate, eta: etaSeconds };
      const { panel } = this.#stage;
      panel.show({ lines: diary.lines, cells: panel.showsCells ? await this.#cells() : [], moment });
      if (isSoFar(job)) return job;
      if (state === "failed" || state === "cancelled") {
        throw new Wrong(`the stream is ${state}: ${reason?.message ?? "nobody knows why"}`);
      }
      if (diary.wrong !== undefined) throw new Wrong(`the guest says: ${diary.wrong}`);
      const now = JSON.stringify([missingBytes, state, diary.deeds]);
      if (now !== last) since = performance.now();
      last = now;
      if (performance.now() - since > PATIENCE_MS) {
        throw new Wrong(`nothing has happened for ${formatDuration(PATIENCE_MS)}: ${diary.lines.at(-1) ?? "no line"}`);
      }
      await sleep(LOOK_MS, undefined, { signal: this.#signal });
    }
  }

  /** The stream; what is missing is not known right after a start of the daemon. */
  async #job(): Promise<Job> {
    const job = await this.#disk.streamInfo();
    if (job.missingBytes > 0 || job.state === "completed") this.#lastMissing = job.missingBytes;
    return { ...job, missingBytes: this.#lastMissing };
  }

  async #cells(): Promise<CellKind[]> {
    const { local, missing } = await this.#disk.cells({ count: PANEL_CELLS });
    return Array.from(local, (here, index) => {
      if ((missing[index] ?? 0) === 0) return here > 0 ? "local" : "zero";
      return here > 0 ? "part" : "missing";
    });
  }
}

/** The reason of a reason: what the image's own server is said to do, and not what is made of that on the way. */
function innermost(message: string): string {
  return (message.split(/\(it says: |failed: /).at(-1) ?? "").replace(/\)+$/, "");
}
