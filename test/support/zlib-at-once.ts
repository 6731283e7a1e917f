/**
 * Importing this makes node:zlib expand in the calling thread: in the thread pool a compressed cluster would take real time, and a
 * test that repeats itself by its numbers could not. It must be imported before what uses node:zlib.
 */
import { syncBuiltinESMExports } from "node:module";
import zlib from "node:zlib";

type Done = (error: Error | null, result?: Buffer) => void;

function atOnce<O>(expand: (bytes: zlib.InputType, options: O) => Buffer) {
  return (bytes: zlib.InputType, options: O, done: Done): void => {
    let result: Buffer;
    try {
      result = expand(bytes, options);
    } catch (error) {
      done(error as Error);
      return;
    }
    done(null, result);
  };
}

Object.assign(zlib, { inflateRaw: atOnce(zlib.inflateRawSync), zstdDecompress: atOnce(zlib.zstdDecompressSync) });
syncBuiltinESMExports();
