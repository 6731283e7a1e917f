/** Does something, says what came of it, and keeps the buttons for it still meanwhile. */
import { useState } from "preact/hooks";
import { tell } from "./notice.tsx";

/** Does it; rejects when it failed, which has been told then. */
export type Act = (what: () => Promise<string>) => Promise<void>;

/** @param refresh looks at what may be another now */
export function useAct(refresh: () => Promise<void>): readonly [act: Act, busy: boolean] {
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
  return [act, busy];
}
