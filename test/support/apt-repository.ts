/** A machine of which nothing is known yet (it has no lists of packages), and whose packages come from a directory. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const KERNEL = "linux-image-9.1-cloud-amd64";

type Files = Readonly<Record<string, string | Buffer>>;

export class AptRepository {
  /** What `APT_CONFIG` must be. */
  readonly config: string;
  readonly #place: string;

  /** @param directory an empty one */
  constructor(directory: string) {
    this.#place = join(directory, "repository");
    const state = join(directory, "state");
    for (const place of [this.#place, join(state, "lists/partial")]) mkdirSync(place, { recursive: true });
    const sources = join(directory, "sources.list");
    writeFileSync(sources, `deb [trusted=yes arch=amd64] file:${this.#place} ./\n`);
    writeFileSync(join(state, "status"), "");
    this.config = join(directory, "apt.conf");
    const settings = [
      ["Dir::Etc::SourceList", sources],
      ["Dir::Etc::SourceParts", "/dev/null"],
      ["Dir::State::Lists", join(state, "lists")],
      ["Dir::State::Status", join(state, "status")],
      ["Dir::Cache", state],
      ["APT::Architecture", "amd64"],
    ];
    writeFileSync(this.config, settings.map(([name, value]) => `${name} "${value}";\n`).join(""));
  }

  /** Makes the packages of a kernel and of busybox. */
  offer(kernel: Files, busybox: Files): void {
    const packages = [
      this.#makePackage("linux-image-cloud-amd64", {}, `Depends: ${KERNEL}\n`),
      this.#makePackage(KERNEL, kernel),
      this.#makePackage("busybox-static", busybox),
    ];
    writeFileSync(join(this.#place, "Packages"), packages.join("\n"));
  }

  /** @returns its part of the list of packages */
  #makePackage(name: string, files: Files, more = ""): string {
    const tree = join(this.#place, `${name}.tree`);
    const control = `Package: ${name}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\n${more}`;
    for (const [path, content] of Object.entries({ "DEBIAN/control": `${control}Description: x\n`, ...files })) {
      mkdirSync(join(tree, path, ".."), { recursive: true });
      writeFileSync(join(tree, path), content);
    }
    const file = join(this.#place, `${name}.deb`);
    assert.equal(spawnSync("dpkg-deb", ["-b", "-Znone", tree, file]).status, 0);
    const sum = createHash("sha256").update(readFileSync(file)).digest("hex");
    return `${control}Filename: ./${name}.deb\nSize: ${statSync(file).size}\nSHA256: ${sum}\nDescription: x\n`;
  }
}
