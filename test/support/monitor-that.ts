/** A real QEMU's monitor with which something happens at a command. */
import { socketTransport } from "../../src/domain/qmp/connection.ts";
import type { QmpLink, QmpTransport } from "../../src/domain/qmp/transport.ts";

export interface AtCommand {
  readonly command: string;
  /** Which time it is run. @default the first */
  readonly time?: number;
  /** Whether it was answered already; otherwise it is under way. */
  readonly after: boolean;
}

/** @param act what happens; when it throws the command fails with that, whatever QEMU has done */
export function monitorThat(path: string, { command, time = 1, after }: AtCommand, act: () => void): QmpTransport {
  const transport = socketTransport(path);
  let times = 0;
  return {
    name: transport.name,
    open: async (options, listener) => {
      const link = await transport.open(options, listener);
      const execute: QmpLink["execute"] = async (name, args, signal) => {
        const isIt = name === command && ++times === time;
        const answer = link.execute(name, args, signal);
        if (isIt && !after) act();
        const result = await answer;
        if (isIt && after) act();
        return result;
      };
      return {
        execute,
        close: () => link.close(),
        get isOver() {
          return link.isOver;
        },
      };
    },
  };
}
