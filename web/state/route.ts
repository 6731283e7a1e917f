/** Where one is on the page: in the fragment of the address, `#/` or `#/disk/NAME`. */
import { signal } from "@preact/signals";

/** Name of the disk that is shown; undefined for the list. */
export const shownDisk = signal<string | undefined>(undefined);

export function pathOf(disk: string): string {
  return `#/disk/${encodeURIComponent(disk)}`;
}

export function followRoute(): void {
  const read = (): void => {
    const [, name] = /^#\/disk\/(.+)$/.exec(location.hash) ?? [];
    shownDisk.value = name === undefined ? undefined : decodeURIComponent(name);
  };
  addEventListener("hashchange", read);
  read();
}
