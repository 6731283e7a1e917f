/** What both sides must agree upon about an image, whoever wrote it: its content, its map, its health. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { openChain } from "../../src/chain/index.ts";
import type { FormatName } from "../../src/formats/index.ts";
import type { ByteModel, Range } from "./byte-model.ts";
import { mustCompare, ourMap, qemuCheck, qemuMap } from "./peer-images.ts";

export interface Agreed {
  readonly path: string;
  readonly format: FormatName;
  readonly model: ByteModel;
  /** Where to compare a disk that is too large to be compared whole. */
  readonly windows?: readonly Range[];
  /** For messages. */
  readonly label: string;
}

/**
 * qemu-img and we read what the model holds, see the same map, and find nothing to complain about. Nobody has the image open.
 */
export async function mustAgree({ path, format, model, windows = [], label }: Agreed): Promise<void> {
  const raw = `${path}.model`;
  await model.disk.save(raw);
  mustCompare(path, format, raw);
  rmSync(raw);
  await using chain = await openChain({ file: path, format, readOnly: true });
  await model.verify(chain.node, windows, label);
  assert.deepEqual(await ourMap(chain.node), qemuMap(path, format), `${label}: map`);
  if (format === "raw") return;
  const theirs = qemuCheck(path, format);
  const ours = await chain.node.check();
  assert.deepEqual(ours.findings, [], label);
  for (const [figure, count] of Object.entries(theirs)) {
    if (typeof count === "number") assert.equal(ours[figure as keyof typeof ours], count, `${label}: ${figure}`);
  }
}
