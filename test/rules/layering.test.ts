import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { importsOf, layeringViolations } from "./layering.ts";

const ROOT = join(import.meta.dirname, "../..");

test("src/ and web/ keep the import rule", () => {
  const paths = globSync(["src/**/*.ts", "web/**/*.{ts,tsx}"], { cwd: ROOT });
  const modules = new Map(paths.map((path) => [path, readFileSync(join(ROOT, path), "utf8")]));
  assert.ok(modules.size > 0);
  assert.deepEqual(layeringViolations(modules), []);
});

test("every kind of import is seen", () => {
  const text = `
import { a } from "./a.ts";
import type { B } from "./b.ts";
import c, {
  type D,
} from "./c.ts";
import "./d.ts";
export { e } from "./e.ts";
export type { F } from "./f.ts";
// import { no } from "./comment.ts";
/* import { no } from "./comment.ts"; */
const url = "nbd://host"; const g = await import("./g.ts"); // import("./comment.ts")
type H = import("./h.ts").H;
const koffi = createRequire(import.meta.url)("koffi");
const other = require("other");
this.#requireWritable("discard");
`;
  const expected = ["a", "b", "c", "d", "e", "f", "g", "h"].map((name) => `./${name}.ts`);
  assert.deepEqual(importsOf(text).sort(), [...expected, "koffi", "other"].sort());
});

suite("a bad tree is told so", () => {
  const bad: readonly (readonly [path: string, text: string, complaint: RegExp])[] = [
    ["src/block/x.ts", 'import { a } from "../host/index.ts";', /'block' may see only errors/],
    ["src/errors/x.ts", 'import type { A } from "../block/index.ts";', /'errors' may see only itself/],
    ["src/formats/qed/x.ts", 'import { a } from "../../host/index.ts";', /'formats' may see only errors, block/],
    ["src/stream/x.ts", 'export { a } from "../chain/index.ts";', /'stream' may see only errors, block/],
    ["src/stream/x.ts", 'import { open } from "node:fs";', /'stream' may use no module of Node.js/],
    ["src/formats/x.ts", 'import { open } from "node:fs";', /'formats' may use node:util, node:zlib of Node.js/],
    ["src/image/x.ts", 'import { a } from "../formats/format.ts";', /through its index.ts/],
    ["src/image/x.ts", 'const a = await import("../cli/index.ts");', /'image' may see only errors,/],
    ["src/image/x.ts", 'import { a } from "./index.ts";', /its own index.ts/],
    ["src/image/x.ts", 'import { a } from "./y";', /ends in .ts/],
    ["src/image/x.ts", 'import { a } from "../../test/support/seed.ts";', /outside src/],
    ["src/cli/x.ts", 'import { a } from "../index.ts";', /is in no room/],
    ["src/image/x.ts", 'import { Command } from "commander";', /its home is src\/cli/],
    ["src/image/x.ts", 'const koffi = createRequire(import.meta.url)("koffi");', /its home is src\/host/],
    ["src/image/x.ts", 'import { DatabaseSync } from "node:sqlite";', /its home is src\/daemon/],
    ["src/image/x.ts", 'import _ from "lodash/fp";', /without a home/],
    ["src/errors/x.ts", "export const a = Buffer.alloc(1);", /a global of Node.js/],
    ["src/attic/x.ts", "export const a = 1;", /is in no room/],
    ["src/x.ts", "export const a = 1;", /is in no room/],
    ["web/x.ts", 'import { a } from "../src/block/index.ts";', /'web' may see only errors, api, client/],
    ["web/parts/x.tsx", 'import { a } from "../../src/client/disk-handle.ts";', /through its index.ts/],
    ["web/x.ts", 'import { readFile } from "node:fs";', /its home is none/],
    ["web/x.ts", 'import { z } from "zod";', /its home is src\/api/],
    ["web/x.ts", "export const a = process.env.A;", /a global of Node.js/],
    ["src/client/x.ts", 'import { render } from "preact";', /its home is web/],
    ["src/image/utils.ts", "export const a = 1;", /a name that says nothing/],
    ["src/image/parts/index.ts", "export const a = 1;", /only a room has an index.ts/],
    ["src/image/x.ts", "export default function a() {}", /default export/],
    ["src/image/x.ts", `export const a = 1;${"\n".repeat(401)}`, /has 401 lines/],
  ];
  for (const [path, text, complaint] of bad) {
    test(`${path}: ${text.trim()}`, () => {
      const found = layeringViolations(new Map([[path, text]]));
      assert.equal(found.length, 1, found.join("\n"));
      assert.match(found[0] as string, complaint);
    });
  }
});

test("a good tree is not", () => {
  const good = new Map([
    ["src/errors/index.ts", 'export { a } from "./errors.ts";\n'],
    ["src/errors/errors.ts", "/** Not a `Buffer.from` in sight. */\nexport const a = 1;\n"],
    ["src/host/x.ts", 'import { a } from "../errors/index.ts";\nimport { open } from "node:fs";\n'],
    ["src/formats/qcow2/x.ts", 'import { zlib } from "node:zlib";\nimport { b } from "../mapped/y.ts";\n'],
    ["src/formats/qcow2/x.test.ts", 'import { rng } from "../../../test/support/seed.ts";\n'],
    ["src/cli/x.ts", 'import { Command } from "commander";\nimport { a } from "../image/index.ts";\n'],
    ["src/index.ts", 'export { a } from "./image/index.ts";\n'],
    [
      "web/parts/x.tsx",
      'import "../style.css";\nimport { a } from "../../src/client/index.ts";\nimport { b } from "preact/hooks";\n',
    ],
  ]);
  assert.deepEqual(layeringViolations(good), []);
});
