import { percent } from "../words.ts";

interface BarParts {
  readonly local: number;
  readonly zero: number;
  readonly missing: number;
  readonly label: string;
}

interface Figures {
  readonly label: string;
  readonly length: number;
  readonly localBytes: number;
  readonly missingBytes: number;
}

/** A bar by what is counted of a disk. What is local is counted in whole clusters, which may reach past its end. */
export function FiguresBar({ label, length, localBytes, missingBytes }: Figures) {
  const local = Math.min(localBytes, length - missingBytes);
  return <Bar label={label} local={local} zero={Math.max(0, length - local - missingBytes)} missing={missingBytes} />;
}

/** How far a disk is: what is local, what is known to be zero, what is missing. */
export function Bar({ local, zero, missing, label }: BarParts) {
  const whole = Math.max(1, local + zero + missing);
  return (
    <div class="bar" role="img" aria-label={`${label}: ${percent(local + zero, whole)} here`}>
      <span class="bar-local" style={{ flexGrow: local / whole }} />
      <span class="bar-zero" style={{ flexGrow: zero / whole }} />
      <span class="bar-missing" style={{ flexGrow: missing / whole }} />
    </div>
  );
}
