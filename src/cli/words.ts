import { StreamdiskError } from "../errors/index.ts";

/** Parts of a word: plain characters, one after a backslash, what stands in quotes. */
const PART = /[^\s'"\\]+|\\([\s\S])|'([^']*)'|"((?:[^"\\]|\\[\s\S])*)"/y;

/**
 * Splits a text into words as a POSIX shell does, and does nothing else of what a shell does: no variables, no patterns.
 *
 * @throws {StreamdiskError} `invalid-argument` for a quote that does not end
 */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (let at = 0; at < text.length; ) {
    PART.lastIndex = at;
    const part = PART.exec(text);
    if (part === null) {
      if (!/\s/.test(text.charAt(at))) throw unfinished(text);
      if (word !== undefined) words.push(word);
      word = undefined;
      at++;
      continue;
    }
    const [all, escaped, single, double] = part;
    word = (word ?? "") + (escaped ?? single ?? double?.replace(/\\([\\"$`])/g, "$1") ?? all);
    at = PART.lastIndex;
  }
  return word === undefined ? words : [...words, word];
}

function unfinished(text: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", `The arguments '${text}' end inside quotes, or with a backslash`);
}
