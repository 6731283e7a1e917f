#!/usr/bin/env node
// Plain ES2020 without static imports: an old Node must get as far as saying that it is too old.
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 19)) {
  console.error(
    `streamdisk needs Node.js 22.19 or newer, and this is ${process.versions.node}: see https://nodejs.org`,
  );
  process.exit(1);
}
// One pool for all files of the process: a hung file system takes two places of it a source (libuv, "Thread pool work scheduling").
process.env.UV_THREADPOOL_SIZE ??= "16";
const main = new URL("../dist/cli/main.js", import.meta.url);
await import(main.href).catch((error) => {
  if (error.code !== "ERR_MODULE_NOT_FOUND" || error.url !== main.href) throw error;
  console.error("streamdisk is not built yet: run 'npm run build' in its directory first");
  process.exit(1);
});
