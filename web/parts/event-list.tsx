import type { Event } from "../../src/client/index.ts";
import { forPeople, timeOfDay } from "../words.ts";

const BAD = /lost|failed|damaged|pause-wanted|fallback|changed$/;
const GOOD = /^(?:hydrated|base-reached|job-completed|source-back|source-free)$/;

interface EventListParts {
  /** The newest first. */
  readonly events: readonly Event[];
  readonly most: number;
}

/** What happened; what has happened again and again is there once. */
export function EventList({ events, most }: EventListParts) {
  if (events.length === 0) return <p class="hint">Nothing yet.</p>;
  const times = new Map<string, number>();
  const once = events.filter(({ type, disk, message }) => {
    const key = `${type} ${disk} ${message}`;
    times.set(key, (times.get(key) ?? 0) + 1);
    return times.get(key) === 1;
  });
  return (
    <ol class="events">
      {once.slice(0, most).map(({ id, time, type, disk, message }) => (
        <li key={id} data-tone={GOOD.test(type) ? "good" : BAD.test(type) && type !== "disk-changed" ? "bad" : "calm"}>
          <time dateTime={new Date(time).toISOString()}>{timeOfDay(time)}</time>
          <span>
            {forPeople(message)}
            <Times count={times.get(`${type} ${disk} ${message}`) ?? 1} />
          </span>
        </li>
      ))}
    </ol>
  );
}

function Times({ count }: { readonly count: number }) {
  return count === 1 ? null : <span class="times"> ({count} times)</span>;
}
