/**
 * The entry of the command line: runs one command and sets the exit code. The process ends by itself, so that what is
 * still on its way to a reader arrives.
 */
import { setFlagsFromString } from "node:v8";
import { reportFailure } from "./failure.ts";
import { namingHolder } from "./held-by-daemon.ts";
import { buildProgram, separateSize } from "./program.ts";

/** Shell's code for a process that a closed pipe ended. */
const EXIT_PIPE = 141;

// What others see in lists of processes, and of who holds a lock.
process.title = "streamdisk";

// What a command allocates is short-lived. V8 would in time give it 128 MiB to lie around in, for no speed that can be measured.
setFlagsFromString("--semi-space-growth-factor=1");
// A thread of disks begins with more than the 1 MiB of others, and that is all it may have (YOUNG_MIB in engine/threads.ts): a
// hundred requests under way fill that each millisecond.
setFlagsFromString("--min-semi-space-size=4");
// So little is looked through sooner by one thread than others are woken to help: that costs a tenth of a request.
setFlagsFromString("--no-parallel-scavenge");
// What waits for a far source looks as if it were to stay: the heap would triple before it is looked through.
setFlagsFromString("--heap-growing-percent=40");

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  // The reader went away (`| head`): end as other programs do. An image survives that like any kill.
  process.exit(error.code === "EPIPE" ? EXIT_PIPE : reportFailure(error));
});

// An error that nobody waited for is one of the program: it ends, and looks like any other failure.
process.once("uncaughtException", (error) => process.exit(reportFailure(error)));

try {
  const argv = separateSize(process.argv.slice(2));
  const program = await buildProgram(argv);
  await program.parseAsync(argv, { from: "user" });
} catch (error) {
  process.exitCode = reportFailure(await namingHolder(error));
}
