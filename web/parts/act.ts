/** Does something, says what came of it, and keeps the buttons for it still meanwhile. */
import { useState } from "preact/hooks";
import { tell } from "./notice.tsx";

/** Does it; rejects when it failed, which has been told then. */
export type Act = (what: () => Promise<string>) => Promise<void>;

interface Acting {
  readonly act: Act;
  /** What a button does that asks nothing before. */
  readonly onClick: (what: () => Promise<string>) => () => void;
  readonly busy: boolean;
}

/** @param refresh looks at what may be another now */
export function useAct(refresh: () => Promise<void>): Acting {
  const [busy, setBusy] = useState(false);
  const act: Act = async (what) => {
    setBusy(true);
    try {
      tell(await what());
      await refresh();
    } catch (error) {
      tell(error instanceof Error ? error.message : String(error), { bad: true });
      throw error;
    } finally {
      setBusy(false);
    }
  };
  return { act, onClick: (what) => () => void act(what).catch(() => {}), busy };
}
