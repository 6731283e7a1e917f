import { MemoryStore } from "./memory-store.ts";
import { testStore } from "./store-conformance.ts";

testStore("in memory", async () => new MemoryStore());
