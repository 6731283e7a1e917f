import assert from "node:assert/strict";
import { test } from "node:test";
import { StreamdiskError } from "../errors/index.ts";
import { formatDuration, formatSize, parseDuration, parseRate, parseSize } from "./units.ts";

const refuses = (parse: (text: string) => number, text: string, ...words: RegExp[]) => {
  assert.throws(
    () => parse(text),
    (error) => {
      assert(error instanceof StreamdiskError, String(error));
      assert.equal(error.code, "invalid-argument");
      assert(error.message.includes(`'${text}'`), `${error.message} quotes ${text}`);
      for (const word of words) assert.match(error.message, word);
      return true;
    },
  );
};

test("sizes are qemu-img's", () => {
  const sizes: [string, number][] = [
    ["0", 0],
    ["512", 512],
    ["512B", 512],
    ["10k", 10240],
    ["10K", 10240],
    ["10KiB", 10240],
    ["10Ki", 10240],
    ["1.5G", 1610612736],
    ["1.3K", 1331],
    [".5K", 512],
    ["1.K", 1024],
    ["2T", 2 * 1024 ** 4],
    ["4P", 4 * 1024 ** 5],
    ["0x1000", 4096],
    ["1 GiB", 1024 ** 3],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
  ];
  for (const [text, bytes] of sizes) assert.equal(parseSize(text), bytes, text);
});

test("what is no size is refused with the text and a hint", () => {
  refuses(parseSize, "10X", /unknown suffix 'X'/);
  refuses(parseSize, "", /not a size/);
  refuses(parseSize, ".", /not a size/);
  refuses(parseSize, "1e3", /not a size/);
  refuses(parseSize, "ten", /not a size/);
  refuses(parseSize, "1.5", /fraction of a byte/);
  refuses(parseSize, "-5", /negative/);
  refuses(parseSize, "-1.5G", /negative/);
  refuses(parseSize, "9007199254740992", /too big/);
  refuses(parseSize, "9007199254740993", /too big/);
  refuses(parseSize, "7E", /too big/);
  refuses(parseSize, "50M/s", /not a size/);
});

test("bits and powers of 1000 are refused with a hint", () => {
  for (const text of ["10Mbit", "10Mbps", "10Mb", "10Mibit", "10Gbits"]) refuses(parseSize, text, /bits/, /10[MG]/);
  for (const text of ["10b", "10bit"]) refuses(parseSize, text, /bits/, /write for example 10 for bytes/);
  for (const text of ["10kB", "10KB", "10MB", "10GB", "10MBps"]) refuses(parseSize, text, /1000/, /10[KMG]iB/);
  refuses(parseRate, "10Mbit/s", /bits/);
  refuses(parseRate, "10MB/s", /1000/);
});

test("a rate may end in /s", () => {
  assert.equal(parseRate("50M"), 50 * 1024 ** 2);
  assert.equal(parseRate("50M/s"), 50 * 1024 ** 2);
  assert.equal(parseRate("1.5GiB/s"), 1.5 * 1024 ** 3);
  refuses(parseRate, "/s", /not a rate/);
  refuses(parseRate, "50M/m", /not a rate/);
});

test("durations", () => {
  assert.equal(parseDuration("500ms"), 500);
  assert.equal(parseDuration("30s"), 30_000);
  assert.equal(parseDuration("1.5m"), 90_000);
  assert.equal(parseDuration("2h"), 7_200_000);
  assert.equal(parseDuration("0s"), 0);
  for (const text of ["30", "s", "30 s", "-1s", "1d", "1e3s"]) refuses(parseDuration, text, /500ms, 30s, 5m or 2h/);
  refuses(parseDuration, "99999999999999999h", /too long/);
});

test("sizes are printed like qemu-img's", () => {
  const printed: [number, string][] = [
    [0, "0 B"],
    [512, "512 B"],
    [999, "999 B"],
    [1000, "0.977 KiB"],
    [1024, "1 KiB"],
    [1314816, "1.25 MiB"],
    [67108864, "64 MiB"],
    [1023 * 1024 ** 2, "0.999 GiB"],
    [4 * 1024 ** 4, "4 TiB"],
    [Number.MAX_SAFE_INTEGER, "8 PiB"],
  ];
  for (const [bytes, text] of printed) assert.equal(formatSize(bytes), text);
});

test("durations are printed for people", () => {
  const printed: [number, string][] = [
    [0, "0 ms"],
    [850, "850 ms"],
    [12_400, "12 s"],
    [59_700, "1 min"],
    [200_000, "3 min 20 s"],
    [3_600_000, "1 h"],
    [7_500_000, "2 h 5 min"],
  ];
  for (const [milliseconds, text] of printed) assert.equal(formatDuration(milliseconds), text);
});
