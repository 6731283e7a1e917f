import type { Disk } from "../../src/client/index.ts";
import type { WatchedDisk } from "../state/watched-disk.ts";
import { bytes, percent, policyInWords } from "../words.ts";

/** What would be lost if the source died now, in plain words. */
export function LossPanel({ watched, disk }: { readonly watched: WatchedDisk; readonly disk: Disk }) {
  const missing = watched.total.value?.missing ?? disk.missingBytes ?? 0;
  const state = watched.live.value?.source.state ?? disk.source?.state;
  const gone = state === "lost" || state === "changed";
  if (disk.hydrated === true || state === "none") {
    return (
      <section class="panel" data-tone="good">
        <h2>If the source died now</h2>
        <p class="figure">Nothing</p>
        <p>would be lost. All of this disk is here, and it needs no source any more.</p>
      </section>
    );
  }
  return (
    <section class="panel" data-tone={gone ? "bad" : "calm"}>
      <h2>{gone ? "The source is gone" : "If the source died now"}</h2>
      <p class="figure">{missing === 0 ? "Nothing" : bytes(missing)}</p>
      <p>
        {missing === 0
          ? "would be lost: what has not been copied is known to be zero."
          : `${gone ? "cannot be read until it is back" : "would be out of reach"}: ${percent(missing, disk.length ?? missing)} of the disk.`}
      </p>
      {missing > 0 && (
        <p>
          {gone ? "All else goes on at full speed." : "All else would go on at full speed."} Reads of what is missing{" "}
          {state === "changed" ? "fail." : `${policyInWords(disk.onSourceError, gone)}.`} A stream{" "}
          {gone ? "waits" : "would wait"} and {gone ? "goes" : "go"} on by itself.
        </p>
      )}
    </section>
  );
}
