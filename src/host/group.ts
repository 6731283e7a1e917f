/** Groups of users by name, which Node.js can't look up: from /etc/group. */
import { readFile } from "node:fs/promises";
import { StreamdiskError } from "../errors/index.ts";

/**
 * The number of a group.
 *
 * @throws {StreamdiskError} `not-found` for a name that /etc/group doesn't have (one from a directory service is given by its
 *   number)
 */
export async function groupId(group: string | number): Promise<number> {
  if (typeof group === "number") return group;
  if (/^\d+$/.test(group)) return Number(group);
  const table = await readFile("/etc/group", "utf8").catch(() => "");
  for (const line of table.split("\n")) {
    const [name, , id] = line.split(":");
    if (name === group && id !== undefined && /^\d+$/.test(id)) return Number(id);
  }
  throw new StreamdiskError("not-found", `There is no group '${group}' in /etc/group: give its number`, {
    node: group,
  });
}
