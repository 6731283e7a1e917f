/** An image in use may be a disk of the daemon: then whoever wanted it as a file is told what to call instead. */
import { realpath } from "node:fs/promises";
import { StreamdiskError } from "../errors/index.ts";

const PATIENCE_MS = 1_000;

/** The error, with the name of the disk where the daemon has the image open. Anything else comes back as it is. */
export async function namingHolder(error: unknown): Promise<unknown> {
  if (!(error instanceof StreamdiskError) || error.code !== "in-use" || error.context.node === undefined) return error;
  try {
    const path = await realpath(error.context.node);
    const { linkToDaemon } = await import("./daemon-link.ts");
    const { client } = await linkToDaemon({});
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const { disks } = await client.call("listDisks", { query: { limit: 1000 } }, { signal });
    const held = disks.find(({ image }) => image === path);
    if (held === undefined) return error;
    const message = `${error.message}. It is the disk '${held.name}' of the daemon: use 'streamdisk stream ${held.name}', 'info ${held.name}' or 'disk --help'`;
    return new StreamdiskError(error.code, message, error.context, error);
  } catch {
    // No file, no daemon, none that is ours.
    return error;
  }
}
