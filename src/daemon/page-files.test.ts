import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FakeFeed, fakeService, fakeWatch } from "../../test/support/fake-service.ts";
import { type HttpBindings, httpApp } from "./http-app.ts";
import { noLog } from "./log.ts";
import { pageFiles } from "./page-files.ts";

const TCP: HttpBindings = {
  caller: { kind: "tcp", address: "127.0.0.1", secure: false, isOwnName: (host) => host === "localhost" },
};

async function made(t: { after: (act: () => void) => void }) {
  const directory = mkdtempSync(join(tmpdir(), "streamdisk-page-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const web = join(directory, "web");
  mkdirSync(join(web, "assets"), { recursive: true });
  writeFileSync(join(web, "index.html"), "<!doctype html>");
  writeFileSync(join(web, "assets/index-Ab1.js"), "1;");
  writeFileSync(join(web, "assets/index-Ab1.js.map"), "{}");
  writeFileSync(join(directory, "secret.html"), "secret");
  symlinkSync(join(directory, "secret.html"), join(web, "link.html"));
  const page = await pageFiles(web);
  const options = { events: new FakeFeed(), watch: fakeWatch, access: { token: "right" }, log: noLog };
  const app = httpApp(fakeService(), { ...options, page });
  const get = async (path: string, headers: Record<string, string> = {}, method = "GET") =>
    app.request(path, { method, headers: { Host: "localhost", ...headers } }, TCP);
  return { page, get };
}

test("the page is there for everybody, under a strict policy, and the API is not", async (t) => {
  const { get } = await made(t);
  const page = await get("/");
  assert.deepEqual([page.status, await page.text()], [200, "<!doctype html>"]);
  assert.deepEqual(page.headers.get("content-type"), "text/html; charset=utf-8");
  assert.equal(page.headers.get("cache-control"), "no-cache");
  const policy = page.headers.get("content-security-policy") ?? "";
  assert.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self'; .*frame-ancestors 'none'$/);
  assert.doesNotMatch(policy, /unsafe|\*|https?:/);
  const script = await get("/assets/index-Ab1.js");
  assert.deepEqual([script.status, script.headers.get("content-type")], [200, "text/javascript; charset=utf-8"]);
  assert.match(script.headers.get("cache-control") ?? "", /max-age=31536000, immutable/);
  for (const { headers } of [page, script]) assert.equal(headers.get("x-content-type-options"), "nosniff");
  const api = await get("/v1/disks");
  assert.deepEqual([api.status, api.headers.get("cache-control")], [401, "no-store"]);
  assert.equal((await get("/", { Host: "evil.example" })).status, 403);
  assert.equal((await get("/", {}, "POST")).status, 405);
});

test("what is not a file of the page is not there, whatever the path", async (t) => {
  const { page, get } = await made(t);
  assert.deepEqual([...page.keys()].sort(), ["/", "/assets/index-Ab1.js"]);
  const auth = { Authorization: "Bearer right" };
  for (const path of [
    "/index.html",
    "/link.html",
    "/assets",
    "/assets/",
    "/assets/index-Ab1.js.map",
    "/assets/../../secret.html",
    "/assets/%2e%2e/%2e%2e/secret.html",
    "/..%2fsecret.html",
    "/assets/..%5c..%5csecret.html",
  ]) {
    assert.equal((await get(path)).status, 401, path);
    assert.equal((await get(path, auth)).status, 404, path);
  }
});

test("where it was not built there is none", async () => {
  assert.equal((await pageFiles("/nonexistent")).size, 0);
});
