/** Preloaded into a process (`--import`): its clock of the day is as far ahead as the file named by `CLOCK_AHEAD_FILE` says, in milliseconds. */
import { readFileSync } from "node:fs";

const { now } = Date;
const path = process.env["CLOCK_AHEAD_FILE"] ?? "";
Date.now = (): number => now() + Number(readFileSync(path, "utf8"));
