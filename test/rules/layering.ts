/**
 * The import rule of the house: rooms in one order, each seen only through its `index.ts`, each third-party package at home in
 * one room. Works on texts, so that the test can show that it fails where it should.
 *
 * Imports are found by pattern, after comments are taken away: the formatter sees to it that an import looks like one.
 */
import { posix } from "node:path";

/** The rooms from the ground up. A room imports only from those before it. */
const ROOMS = [
  "errors",
  "block",
  "host",
  "formats",
  "nbd",
  "sources",
  "filters",
  "chain",
  "stream",
  "image",
  "jobs",
  "api",
  "client",
  "engine",
  "domain",
  "migrate",
  "daemon",
  "cli",
] as const;
type Room = (typeof ROOMS)[number];

/** Rooms that know less than their place in the order would allow. */
const SEES_ONLY: Partial<Record<Room, readonly Room[]>> = {
  host: ["errors", "block"],
  formats: ["errors", "block"],
  filters: ["errors", "block"],
  stream: ["errors", "block"],
  api: ["errors"],
  client: ["errors", "api"],
};

/** Rooms that may use only these modules of Node.js. */
const NODE_MODULES: Partial<Record<Room, readonly string[]>> = {
  errors: [],
  block: [],
  formats: ["node:util", "node:zlib"],
  filters: [],
  stream: [],
  api: [],
  client: [],
};
/** Rooms that run in a browser too. */
const BROWSER_SAFE: readonly Room[] = ["errors", "api", "client"];
const NODE_GLOBALS = /\b(?:Buffer\.|process\.|require\()/;

/** What the page in `web/` sees of `src/`. It has subfolders, but no rooms of its own. */
const WEB_SEES: readonly Room[] = ["errors", "api", "client"];

/** Where each third-party package lives, and modules of Node.js that have a home of their own. */
const HOMES: Readonly<Record<string, Room | "web">> = {
  commander: "cli",
  "fast-xml-parser": "domain",
  koffi: "host",
  undici: "sources",
  "node:sqlite": "daemon",
  zod: "api",
  hono: "daemon",
  "@hono/node-server": "daemon",
  pino: "daemon",
  "prom-client": "daemon",
  preact: "web",
  "@preact/signals": "web",
  uplot: "web",
};

const VAGUE_NAME = /^(?:utils?|helpers?|types?|common|misc|shared)\.tsx?$/;
const MAX_LINES = 400;

/** What one module imports, in the order of the text. */
export function importsOf(text: string): string[] {
  const patterns = [
    /^(?:import|export)\s[^"';]*?\bfrom\s*"([^"]+)"/gm,
    /^import\s*"([^"]+)"/gm,
    /\bimport\(\s*"([^"]+)"/g,
    /(?<![\w#.])require\(\s*"([^"]+)"/g,
    /\bcreateRequire\([^)]*\)\(\s*"([^"]+)"/g,
  ];
  const code = withoutComments(text);
  return patterns.flatMap((pattern) => Array.from(code.matchAll(pattern), (match) => match[1] as string));
}

/**
 * Checks the modules of `src/` and `web/`.
 *
 * @param modules text by path, as in "src/block/index.ts"
 * @returns one sentence for each violation
 */
export function layeringViolations(modules: ReadonlyMap<string, string>): string[] {
  const found: string[] = [];
  for (const [path, text] of modules) {
    const complain = (what: string) => found.push(`${path}: ${what}`);
    const isTest = path.endsWith(".test.ts");
    const isWeb = path.startsWith("web/");
    const room = isWeb ? undefined : roomOf(path);

    if (VAGUE_NAME.test(posix.basename(path))) complain("a name that says nothing; name the module for what it does");
    if (/^export default\b/m.test(text)) complain("has a default export");
    if (room === undefined && !isWeb && path !== "src/index.ts") complain("is in no room");
    if (!isWeb && posix.basename(path) === "index.ts" && path.split("/").length > 3)
      complain("only a room has an index.ts");
    if (isTest) continue;

    const lines = text.split("\n").length - 1;
    if (lines > MAX_LINES) complain(`has ${lines} lines; split it by role past ${MAX_LINES}`);
    const inBrowser = isWeb || (room !== undefined && BROWSER_SAFE.includes(room));
    if (inBrowser && NODE_GLOBALS.test(withoutComments(text))) {
      complain("uses a global of Node.js, but runs in a browser");
    }
    for (const specifier of importsOf(text)) {
      const problem = isWeb
        ? webProblem(path, specifier)
        : specifier.startsWith(".")
          ? localProblem(path, room, specifier)
          : packageProblem(room, specifier);
      if (problem !== undefined) complain(`imports '${specifier}': ${problem}`);
    }
  }
  return found;
}

function localProblem(path: string, room: Room | undefined, specifier: string): string | undefined {
  if (!specifier.endsWith(".ts")) return "a local import ends in .ts";
  const target = posix.join(posix.dirname(path), specifier);
  if (!target.startsWith("src/")) return "is outside src/";
  const targetRoom = roomOf(target);
  if (targetRoom === undefined) return "is in no room";
  if (targetRoom === room) {
    return target === `src/${room}/index.ts` ? "a room does not import its own index.ts" : undefined;
  }
  if (target !== `src/${targetRoom}/index.ts`) return "a room is imported through its index.ts";
  if (room === undefined) return undefined;
  const sees = SEES_ONLY[room] ?? ROOMS.slice(0, ROOMS.indexOf(room));
  return sees.includes(targetRoom) ? undefined : `'${room}' may see only ${sees.join(", ") || "itself"}`;
}

function webProblem(path: string, specifier: string): string | undefined {
  if (!specifier.startsWith(".")) {
    const home = HOMES[packageName(specifier)];
    return home === "web" ? undefined : `its home is ${home === undefined ? "none" : `src/${home}`}`;
  }
  if (!/\.(?:tsx?|css)$/.test(specifier)) return "a local import ends in .ts, .tsx or .css";
  const target = posix.join(posix.dirname(path), specifier);
  if (target.startsWith("web/")) return undefined;
  const seen = WEB_SEES.some((room) => target === `src/${room}/index.ts`);
  return seen ? undefined : `'web' may see only ${WEB_SEES.join(", ")}, each through its index.ts`;
}

function packageProblem(room: Room | undefined, specifier: string): string | undefined {
  const name = packageName(specifier);
  const home = HOMES[name];
  if (home === "web") return "its home is web/";
  if (home !== undefined) return home === room ? undefined : `its home is src/${home}`;
  if (!specifier.startsWith("node:")) return "a third-party package without a home";
  const allowed = room === undefined ? undefined : NODE_MODULES[room];
  if (allowed !== undefined && !allowed.includes(specifier)) {
    return `'${room}' may use ${allowed.join(", ") || "no module"} of Node.js`;
  }
  return undefined;
}

function packageName(specifier: string): string {
  return specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}

/** The room of a path; undefined for one that is in none. */
function roomOf(path: string): Room | undefined {
  const [, name, ...rest] = path.split("/");
  return rest.length === 0 ? undefined : ROOMS.find((room) => room === name);
}

/** Takes comments away and leaves strings as they are. */
function withoutComments(text: string): string {
  return text.replace(
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (_, string: string | undefined) => string ?? "",
  );
}
