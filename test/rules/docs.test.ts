import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, suite, test } from "node:test";
import { type Example, examplesIn, Workshop } from "./doc-examples.ts";

const ROOT = join(import.meta.dirname, "../..");

const documents = new Map<string, Example[]>();
for (const path of [
  ...globSync(["README.md", "docs/**/*.md"], { cwd: ROOT }),
  ...globSync("examples/*.ts", { cwd: ROOT }),
]) {
  const text = readFileSync(join(ROOT, path), "utf8");
  const whole: Example = { language: "ts", line: 1, runs: true, code: text };
  documents.set(path, path.endsWith(".md") ? examplesIn(text) : [whole]);
}

const workshop = new Workshop();
after(() => workshop[Symbol.dispose]());

test("the README has a program and commands that run", () => {
  const examples = documents.get("README.md")?.filter(({ runs }) => runs) ?? [];
  assert.deepEqual([...new Set(examples.map(({ language }) => language))].sort(), ["sh", "ts"]);
});

for (const [document, examples] of [...documents].sort()) {
  if (examples.length === 0) continue;
  suite(document, () => {
    for (const example of examples) {
      const title = `line ${example.line}, ${example.language}`;
      test(example.runs ? title : `${title}, as text`, () => {
        if (!example.runs) {
          workshop.write(document, example);
          return;
        }
        const { ok, output } = workshop.run(document, example);
        assert.ok(ok, `${document}:${example.line} failed:\n${example.code}\nIt printed:\n${output}`);
      });
    }
  });
}

test("all programs in them have the right types", () => {
  const { ok, output } = workshop.checkTypes();
  assert.ok(ok, output);
});

suite("the check itself", () => {
  test("finds the blocks of a text", () => {
    const markdown =
      "a\n```sh\nb\n```\n\n1. c\n   ```ts norun\n   d();\n     e();\n   ```\n```text\nf\n```\n````ts\n```\n````\n";
    assert.deepEqual(examplesIn(markdown), [
      { language: "sh", line: 2, runs: true, code: "b\n" },
      { language: "ts", line: 7, runs: false, code: "d();\n  e();\n" },
      { language: "ts", line: 14, runs: true, code: "```\n" },
    ]);
  });

  test("notices a command that fails, a program that throws and a type that does not fit", () => {
    using own = new Workshop();
    const example = (language: "sh" | "ts", code: string): Example => ({ language, line: 1, runs: true, code });
    assert.equal(own.run("a", example("sh", "true\n")).ok, true);
    assert.equal(own.run("a", example("sh", "false | cat\ntrue\n")).ok, false);
    assert.equal(own.run("a", example("sh", "streamdisk --version")).ok, true);
    assert.equal(
      own.run("a", example("ts", 'import { StreamdiskError } from "streamdisk/errors"; StreamdiskError;\n')).ok,
      true,
    );
    assert.equal(own.run("a", example("ts", "throw new Error();\n")).ok, false);
    own.write(
      "a",
      example("ts", 'import { StreamdiskError } from "streamdisk/errors";\nexport const a = StreamdiskError;\n'),
    );
    assert.deepEqual(own.checkTypes(), { ok: true, output: "" });
    own.write("b", example("ts", 'export const a: number = "text";\n'));
    assert.match(own.checkTypes().output, /TS2322/);
  });
});
