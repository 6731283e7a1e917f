import { test } from "node:test";
import { temporaryDirectory } from "../../../test/support/cli.ts";
import { withFewFiles } from "../../../test/support/few-files.ts";

test("a machine that can't be started for want of files is an error, and ends nobody else", async (t) => {
  await withFewFiles(`
    import { launchMachine } from "${import.meta.resolve("./launch-machine.ts")}";
    import { machinePaths } from "${import.meta.resolve("./machine-paths.ts")}";
    import { defaultMachine } from "${import.meta.resolve("./machine-spec.ts")}";
    const machine = { ...defaultMachine({ name: "web" }), accelerator: "tcg", emulator: "/bin/true" };
    fill(1);
    await assert.rejects(launchMachine(machine, machinePaths("${temporaryDirectory(t)}")), { code: "io", message: /run '\\/bin\\/true'.*EMFILE/ });
  `);
});
