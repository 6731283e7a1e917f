/** The demo's guest: it uses its disk while that arrives, as `guest-program.ts` says. */
import type { GuestDiary } from "./guest-diary.ts";

export interface DemoGuest extends AsyncDisposable {
  readonly diary: GuestDiary;
  /** Resolves when it is switched off, and nothing of it is under way. */
  off(): Promise<void>;
}
