/**
 * A real Chromium that looks at the daemon's page, and what it sees there. It notes what no page of ours may do: break its content
 * security policy, ask another host, throw.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { type Browser, chromium, type Page } from "playwright-core";

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export type CellKind = "local" | "zero" | "outline" | "written" | "flight" | "waiting";

/** What the pixels of the map say. */
export interface SeenMap {
  /** Of each cell by its lowest line: what is local fills it from below. */
  readonly cells: readonly CellKind[];
  /** Cells with a mark. */
  readonly written: readonly number[];
  readonly waiting: readonly number[];
}

export interface LookOptions {
  readonly width?: number;
  readonly scheme?: "light" | "dark";
}

/** One for all tests of a file. */
export function startBrowser(): Promise<Browser> {
  return chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
}

/** A tab, and what it must not do. */
export class Look implements AsyncDisposable {
  readonly page: Page;
  readonly #wrong: string[] = [];
  #origin = "";

  private constructor(page: Page) {
    this.page = page;
    page.setDefaultTimeout(20_000);
    page.on("pageerror", (error) => this.#wrong.push(`it threw: ${error.message}`));
    page.on("console", (message) => {
      if (/Content.Security.Policy/i.test(message.text())) this.#wrong.push(message.text());
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(this.#origin)) this.#wrong.push(`it asked ${request.url()}`);
    });
  }

  static async open(
    browser: Browser,
    url: string,
    { width = 1280, scheme = "light" }: LookOptions = {},
  ): Promise<Look> {
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme });
    const look = new Look(await context.newPage());
    look.#origin = new URL(url).origin;
    const note =
      'addEventListener("securitypolicyviolation", (e) => (window.broken ??= []).push(e.violatedDirective));';
    await look.page.addInitScript(note);
    await look.page.goto(url);
    return look;
  }

  /** Another tab of the same window, which knows what this one knows. */
  async another(url: string): Promise<Look> {
    const look = new Look(await this.page.context().newPage());
    look.#origin = this.#origin;
    const kept = await this.page.evaluate<string>("JSON.stringify(sessionStorage)");
    await look.page.addInitScript(`Object.assign(sessionStorage, ${kept})`);
    await look.page.goto(url);
    return look;
  }

  /** Lets the page believe that nobody sees it, or that somebody does. */
  async hide(hidden: boolean): Promise<void> {
    const say = `Object.defineProperty(document, "hidden", { value: ${hidden}, configurable: true })`;
    await this.page.evaluate(`${say}; document.dispatchEvent(new Event("visibilitychange"))`);
  }

  /** Waits until a text is there. */
  async sees(text: string | RegExp): Promise<void> {
    await this.page.getByText(text).first().waitFor();
  }

  /** Presses a button of that name. */
  async press(name: string | RegExp): Promise<void> {
    await this.page.getByRole("button", { name, exact: typeof name === "string" }).click();
  }

  /** Chooses another colour scheme. */
  async prefer(scheme: "light" | "dark"): Promise<void> {
    await this.page.emulateMedia({ colorScheme: scheme });
  }

  /** What the map looks like, by its pixels. */
  map(): Promise<SeenMap> {
    return this.page.evaluate<SeenMap>(READ_MAP);
  }

  /** Asks axe what keeps people out. */
  async assertAccessible(): Promise<void> {
    await this.page.evaluate(AXE);
    const found = await this.page.evaluate<string[]>(
      "axe.run(document).then(({ violations }) => violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join(' | ')))",
    );
    assert.deepEqual(found, []);
  }

  async assertFits(): Promise<void> {
    const beyond = await this.page.evaluate<number>("document.documentElement.scrollWidth - innerWidth");
    assert.ok(beyond <= 0, `the page is ${beyond} pixels wider than the window`);
  }

  /** That it keeps nobody out in the dark and in the light, and fits its window. */
  async assertForEverybody(): Promise<void> {
    for (const scheme of ["dark", "light"] as const) {
      await this.prefer(scheme);
      await this.assertAccessible();
    }
    await this.assertFits();
  }

  /** @throws when it did what it must not do */
  async assertWell(): Promise<void> {
    const broken = await this.page.evaluate<string[]>("window.broken ?? []");
    assert.deepEqual([...this.#wrong, ...broken], []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.page.context().close();
  }
}

/** An expression for the browser: compares pixels with the colours that the style names. */
const READ_MAP = `(() => {
  const canvas = document.querySelector("canvas.map");
  if (canvas === null) return { cells: [], written: [], waiting: [] };
  const context = canvas.getContext("2d");
  const { cells, columns, pitch } = Object.fromEntries(Object.entries(canvas.dataset).map(([k, v]) => [k, Number(v)]));
  const style = getComputedStyle(canvas);
  const names = new Map(["local", "zero", "outline", "written", "flight", "waiting"].map((n) => [style.getPropertyValue("--map-" + n).trim(), n]));
  const at = (x, y) => {
    const [r, g, b] = context.getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data;
    return names.get("#" + [r, g, b].map((v) => v.toString(16).padStart(2, "0")).join(""));
  };
  const all = Array.from({ length: cells }, (_, i) => [(i % columns) * pitch, Math.floor(i / columns) * pitch]);
  const size = pitch - 2;
  const marked = (dx, dy, kind) => all.flatMap(([x, y], i) => (at(x + dx, y + dy) === kind ? [i] : []));
  return {
    cells: all.map(([x, y]) => at(x + size / 2, y + size - 1)),
    written: marked(size - 1, 0, "written"),
    waiting: marked(Math.floor(size / 2), 0, "waiting"),
  };
})()`;
