/** What a schema has found, as sentences that name each field. */
import type { z } from "zod";

const MOST = 5;

interface Issue {
  readonly code?: string | undefined;
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly keys?: readonly string[];
  readonly errors?: readonly (readonly Issue[])[];
}

/**
 * Says what is wrong with an object.
 *
 * @param place what it is called: "body" gives "Field 'size' of the body: expected number, received string"
 */
export function failedFields(place: string, error: z.ZodError): string {
  const said = error.issues.flatMap((issue) => sentences(place, issue, []));
  return [...said.slice(0, MOST), ...(said.length > MOST ? [`and ${said.length - MOST} more`] : [])].join("; ");
}

function sentences(place: string, issue: Issue, above: readonly PropertyKey[]): string[] {
  const path = [...above, ...issue.path];
  const name = path.map(String).join(".");
  if (issue.code === "unrecognized_keys") {
    const inside = name === "" ? `The ${place}` : `Field '${name}' of the ${place}`;
    return (issue.keys ?? []).map((key) => `${inside} has no '${key}'`);
  }
  // Of several shapes, the one that was nearest is what was meant.
  const [nearest] = [...(issue.errors ?? [])].sort((a, b) => a.length - b.length || deepest(b) - deepest(a));
  if (nearest !== undefined) return nearest.flatMap((inner) => sentences(place, inner, path));
  const what = issue.message.replace(/^Invalid (?:input|string|option): /, "");
  return [name === "" ? `The ${place}: ${what}` : `Field '${name}' of the ${place}: ${what}`];
}

function deepest(issues: readonly Issue[]): number {
  return Math.max(0, ...issues.map(({ path }) => path.length));
}
