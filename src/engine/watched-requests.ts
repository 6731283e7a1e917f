import type { NbdExport, RequestNode } from "../nbd/index.ts";
import type { Activity } from "./activity.ts";

type Connect = NonNullable<NbdExport["connect"]>;

/** Requests of guests, which tell what they have written while somebody watches. */
export function watchedRequests(connect: Connect, activity: Activity): Connect {
  return () => {
    const next = connect();
    return () => (activity.isWatched ? new WatchedRequest(next(), activity) : next());
  };
}

class WatchedRequest implements RequestNode {
  readonly #node: RequestNode;
  readonly #activity: Activity;

  constructor(node: RequestNode, activity: Activity) {
    this.#node = node;
    this.#activity = activity;
  }

  read(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#node.read(offset, target, signal);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    const { length } = data;
    await this.#node.write(offset, data);
    this.#activity.note("written", { offset, length });
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#node.writeZeroes(offset, length);
    this.#activity.note("zeroed", { offset, length });
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#node.discard(offset, length);
    this.#activity.note("zeroed", { offset, length });
  }

  flush(): Promise<void> {
    return this.#node.flush();
  }

  async cache(offset: number, length: number, signal?: AbortSignal): Promise<void> {
    await this.#node.cache?.(offset, length, signal);
  }
}
