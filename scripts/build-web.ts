/**
 * Builds the page of the daemon from `web/` into a directory of its own.
 *
 *     node scripts/build-web.ts [DIRECTORY]      without one: dist/web
 */
import { join, resolve } from "node:path";
import { build } from "vite";

const ROOT = join(import.meta.dirname, "..");

await build({
  configFile: false,
  root: join(ROOT, "web"),
  // Wherever the daemon is mounted.
  base: "./",
  logLevel: "warn",
  build: {
    outDir: resolve(process.argv[2] ?? join(ROOT, "dist/web")),
    emptyOutDir: true,
    target: "es2023",
    // Nothing that a strict content security policy would forbid: no inline scripts, images or styles.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
});
