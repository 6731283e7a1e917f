/** What can be done to a disk, drawn and shrunk by fast-check. Places are fractions of the disk, so that they fit any. */
import fc from "fast-check";

/** A range, in bytes, sectors, grains or clusters. */
export interface Place {
  readonly at: number;
  readonly unit: "byte" | "sector" | "grain" | "cluster";
  readonly count: number;
}

/** What may be under way together with others. */
export type Request =
  | { readonly do: "write"; readonly place: Place; readonly number: number }
  | { readonly do: "zero" | "discard" | "read"; readonly place: Place };

export type Action =
  | Request
  | { readonly do: "together"; readonly requests: readonly Request[] }
  | { readonly do: "populate"; readonly place: Place; readonly number: number }
  | { readonly do: "populate zeroes" | "extents"; readonly place: Place }
  | { readonly do: "resize"; readonly to: number }
  | { readonly do: "step"; readonly clusters: number }
  | { readonly do: "flush" | "checkpoint" | "check" | "reopen" | "kill" };

const place = fc.oneof(
  fc.record({ at: fc.nat(9999), unit: fc.constant("byte" as const), count: fc.integer({ min: 1, max: 9000 }) }),
  fc.record({ at: fc.nat(9999), unit: fc.constant("sector" as const), count: fc.integer({ min: 1, max: 40 }) }),
  fc.record({ at: fc.nat(9999), unit: fc.constant("grain" as const), count: fc.integer({ min: 1, max: 8 }) }),
  fc.record({ at: fc.nat(9999), unit: fc.constant("cluster" as const), count: fc.integer({ min: 1, max: 5 }) }),
);
const number = fc.nat(200);

const request: fc.Arbitrary<Request> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant("write" as const), place, number }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("zero" as const, "discard", "read"), place }) },
);

export const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 9, arbitrary: request },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("together" as const),
      requests: fc.array(request, { minLength: 2, maxLength: 5 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("populate" as const), place, number }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("populate zeroes" as const, "extents"), place }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("resize" as const), to: fc.integer({ min: 1, max: 16_000 }) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("step" as const), clusters: fc.integer({ min: 1, max: 200 }) }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constantFrom("flush" as const, "checkpoint", "check", "reopen", "kill") }),
  },
);
