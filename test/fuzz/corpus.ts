/** The images that fuzzing starts from: small, of every kind, made by `make-corpus.ts`. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";

export const CORPUS: string = join(import.meta.dirname, "corpus");

export interface CorpusImage {
  readonly name: string;
  readonly format: "qcow2" | "qed";
  readonly bytes: Uint8Array;
}

/** @param only one format; absent: all */
export function loadCorpus(only?: string): CorpusImage[] {
  const images = readdirSync(CORPUS)
    .filter((file) => file.endsWith(".gz"))
    .sort()
    .map((file): CorpusImage => {
      const name = file.slice(0, -".gz".length);
      const bytes = gunzipSync(readFileSync(join(CORPUS, file)));
      return { name, format: name.endsWith(".qed") ? "qed" : "qcow2", bytes };
    });
  return images.filter(({ format }) => only === undefined || format === only);
}
