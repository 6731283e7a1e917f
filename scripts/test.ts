/** `npm test`: the peers, then every test file with a seeded sample of the cells. Ends with node's own summary. */
import { full, seed } from "../test/support/seed.ts";
import { ensurePeers } from "./peers.ts";
import { runTestFiles, testFiles } from "./test-run.ts";

if (!ensurePeers()) process.exit(1);

console.log(`Node.js ${process.versions.node}, seed ${seed}${full ? ", every cell" : ""}`);
console.log(`To have these cells again: STREAMDISK_SEED=${seed} npm test\n`);
process.env.STREAMDISK_SEED = String(seed);

const result = await runTestFiles(testFiles(), {
  concurrency: 2,
  minutesPerFile: 10,
  onOutput: (text) => process.stdout.write(text),
});
process.exitCode = result.passed ? 0 : 1;
