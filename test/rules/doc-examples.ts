/**
 * The examples of the documentation: fenced blocks of ```sh and ```ts, run as a reader would run them, in a directory where
 * `streamdisk` is a command and `import ... from "streamdisk"` finds this checkout.
 *
 * Blocks of one document share a directory and run in the order of the text. `norun` in the info string ("sh norun", "ts norun")
 * marks what can't be run here; such a ```ts block is still type-checked. Blocks of any other language are not examples.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

const ROOT = join(import.meta.dirname, "../..");
const MAX_MS = 180_000;

export interface Example {
  readonly language: "sh" | "ts";
  /** Line of the opening fence, from 1. */
  readonly line: number;
  readonly runs: boolean;
  readonly code: string;
}

/** The examples of a Markdown text, in order. */
export function examplesIn(markdown: string): Example[] {
  const found: Example[] = [];
  const lines = markdown.split("\n");
  for (let index = 0; index < lines.length; index++) {
    const [, indent = "", fence = "", info = ""] = /^( *)(`{3,}|~{3,})(.*)$/.exec(lines[index] as string) ?? [];
    if (fence === "") continue;
    const line = index + 1;
    const code: string[] = [];
    for (index++; index < lines.length && lines[index]?.trim() !== fence; index++) {
      code.push((lines[index] as string).replace(new RegExp(`^ {0,${indent.length}}`), ""));
    }
    const [language, ...marks] = info.trim().split(/\s+/);
    if (language !== "sh" && language !== "ts") continue;
    found.push({ language, line, runs: !marks.includes("norun"), code: `${code.join("\n")}\n` });
  }
  return found;
}

export interface Outcome {
  readonly ok: boolean;
  /** All that was printed. */
  readonly output: string;
}

/** A temporary directory in which examples run. */
export class Workshop implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), "streamdisk-docs-"));

  constructor() {
    writeFileSync(join(this.#directory, "package.json"), '{ "type": "module" }\n');
    this.#writeCommand();
    this.#writePackage();
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }

  /** Makes the directory of a document. */
  directoryFor(document: string): string {
    const directory = join(this.#directory, document.replaceAll("/", "-"));
    mkdirSync(directory, { recursive: true });
    return directory;
  }

  /** Writes an example down, without running it. Returns its path. */
  write(document: string, { language, line, code }: Example): string {
    const path = join(this.directoryFor(document), `line-${line}.${language}`);
    writeFileSync(path, code);
    return path;
  }

  run(document: string, example: Example): Outcome {
    const path = this.write(document, example);
    const [command, args] =
      example.language === "sh" ? ["bash", ["-euo", "pipefail", path]] : [process.execPath, [path]];
    return this.#spawn(command, args, this.directoryFor(document));
  }

  /** Type-checks all that was written as TypeScript, with the project's own options. */
  checkTypes(): Outcome {
    const project = {
      extends: join(ROOT, "tsconfig.json"),
      compilerOptions: {
        noUnusedLocals: false,
        moduleDetection: "force",
        typeRoots: [join(ROOT, "node_modules/@types")],
      },
      include: ["*/*.ts"],
    };
    writeFileSync(join(this.#directory, "tsconfig.json"), JSON.stringify(project));
    return this.#spawn(join(ROOT, "node_modules/.bin/tsc"), ["-p", this.#directory], this.#directory);
  }

  #spawn(command: string, args: readonly string[], cwd: string): Outcome {
    const { status, stdout, stderr, error } = spawnSync(command, args, {
      cwd,
      encoding: "utf8",
      timeout: MAX_MS,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, PATH: `${join(this.#directory, "bin")}${delimiter}${process.env.PATH}` },
    });
    return { ok: status === 0, output: `${stdout}${stderr}${error?.message ?? ""}` };
  }

  #writeCommand(): void {
    mkdirSync(join(this.#directory, "bin"));
    const script = `#!/bin/sh\nexec '${process.execPath}' '${join(ROOT, "src/cli/main.ts")}' "$@"\n`;
    writeFileSync(join(this.#directory, "bin/streamdisk"), script, { mode: 0o755 });
  }

  /** A package that is this checkout's source under the package's own exports. */
  #writePackage(): void {
    const directory = join(this.#directory, "node_modules/streamdisk");
    mkdirSync(directory, { recursive: true });
    symlinkSync(join(ROOT, "src"), join(directory, "src"));
    const { exports } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as {
      exports: Record<string, string | { default: string }>;
    };
    const sources = Object.entries(exports).flatMap(([name, target]) =>
      typeof target === "string"
        ? []
        : [[name, target.default.replace("./dist/", "./src/").replace(/\.js$/, ".ts")] as const],
    );
    writeFileSync(
      join(directory, "package.json"),
      JSON.stringify({ name: "streamdisk", type: "module", exports: Object.fromEntries(sources) }),
    );
  }
}
