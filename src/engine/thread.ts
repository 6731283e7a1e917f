/** A thread that has disks: it does what it is told, and tells what happens. Started by `threads.ts`. */
import { parentPort } from "node:worker_threads";
import { Disk } from "./disk.ts";
import type { DiskSpec, StreamSpec } from "./disk-spec.ts";
import { type CallMessage, type DiskCalls, sendError, type ThreadMessage } from "./thread-messages.ts";

const disks = new Map<number, Disk>();

function say(message: ThreadMessage): void {
  parentPort?.postMessage(message);
}

async function obey({ disk: id, name, args }: CallMessage): Promise<unknown> {
  if (name === "open") {
    const opened = await Disk.open(args as DiskSpec, (event) => say({ disk: id, event }));
    disks.set(id, opened);
    return { uri: opened.uri };
  }
  const disk = disks.get(id);
  if (disk === undefined) throw new Error(`disk ${id} is not here`);
  switch (name) {
    case "info":
      return disk.info();
    case "mapPage":
      return disk.mapPage(args as DiskCalls["mapPage"]["args"]);
    case "clients":
      return disk.clients();
    case "load":
      return disk.load((args as DiskCalls["load"]["args"]).since);
    case "cells":
      return disk.cells(args as DiskCalls["cells"]["args"]);
    case "live":
      return disk.live();
    case "watch":
      return disk.watch((args as DiskCalls["watch"]["args"]).on);
    case "stream":
      return disk.stream(args as StreamSpec);
    case "base":
      return disk.base((args as DiskCalls["base"]["args"]).named);
    case "cancelStream":
      return disk.cancelStream();
    case "setSpeed":
      return disk.setSpeed((args as { speed: number | undefined }).speed);
    case "step":
      return disk.step(args as { length: number });
    case "resize":
      return disk.resize(args as DiskCalls["resize"]["args"]);
    case "failHeld":
      return disk.failHeld();
    case "release":
      return disk.release();
    case "setPolicy":
      return disk.setPolicy(args as DiskCalls["setPolicy"]["args"]);
    case "close":
      disks.delete(id);
      return disk.close();
  }
}

parentPort?.on("message", (message: CallMessage) => {
  obey(message).then(
    (result) => say({ reply: message.call, result }),
    (error: unknown) => say({ reply: message.call, error: sendError(error) }),
  );
});
