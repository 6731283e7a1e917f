/** The demo's guest: it uses its disk while that arrives, as `guest-program.ts` says. */
import type { GuestDiary } from "./guest-diary.ts";

export interface DemoGuest extends AsyncDisposable {
  readonly diary: GuestDiary;
  /** Switches it off; resolves when nothing of it is under way. */
  powerOff(): Promise<void>;
}
