/**
 * Imported into each test process (`--import hang-guard.ts?minutes=N`): ends it when its tests are done and something keeps it
 * alive, or when they never get done, and says what that is. Node's own time limit leaves such a process running.
 */
const minutes = Number(new URL(import.meta.url).searchParams.get("minutes"));

setTimeout(() => {
  console.error(`Still running after ${minutes} min, held by: ${process.getActiveResourcesInfo().join(", ")}`);
  process.exit(1);
}, minutes * 60_000).unref();
