/** Preloaded into a process (`--import`): while the file named by `READ_ONLY_FILE` is there its files answer writes as ext4 does after `errors=remount-ro`. */
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

const marker = process.env["READ_ONLY_FILE"] ?? "";
for (const name of ["write", "writev"] as const) {
  const real = fs[name] as (...args: unknown[]) => void;
  Object.assign(fs, {
    [name]: (...args: unknown[]): void => {
      const ended = args.at(-1);
      // What has no place in its file is a log.
      const isOfFile = args.length > 3 && typeof ended === "function";
      if (isOfFile && fs.existsSync(marker)) {
        const error = Object.assign(new Error("EROFS: read-only file system, write"), { code: "EROFS" });
        setImmediate(() => Reflect.apply(ended, undefined, [error, 0]));
      } else real(...args);
    },
  });
}
syncBuiltinESMExports();
