import { line } from "../state/fleet.ts";
import { timeOfDay } from "../words.ts";

/** Says that the daemon does not answer, and what one sees meanwhile. The place is always there, so that it is read out. */
export function LineNotice() {
  const now = line.value;
  return (
    <div class="line-notice" role="status">
      {now.state === "lost" && (
        <p>
          <strong>The daemon does not answer.</strong> What you see is how it was at {timeOfDay(now.since)}. It is
          called again by itself; disks go on or come back with the daemon.
        </p>
      )}
    </div>
  );
}
