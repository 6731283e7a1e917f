import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Job } from "../../src/client/index.ts";
import { daemonClient } from "../session.ts";
import { activeOf, bytes } from "../words.ts";
import { useAct } from "./act.ts";
import { Dialog } from "./dialog.tsx";

const MIB = 2 ** 20;
type Asked = "start" | "speed" | "cancel" | "replace";

interface StreamActionsParts {
  readonly name: string;
  readonly stream: Job | undefined;
  /** Whether there is anything that can be fetched. */
  readonly canFetch: boolean;
  /** What lies below it, when that can be replaced. */
  readonly backing: string | undefined;
  readonly replaceSource: (order: { readonly backing: string; readonly force: boolean }) => Promise<unknown>;
  /** Looks at the disk anew. */
  readonly refresh: () => Promise<void>;
}

/** What one can do with a disk, whoever owns it. What cannot be taken back, or needs to know more, is asked before. */
export function StreamActions({ name, stream, canFetch, backing, replaceSource, refresh }: StreamActionsParts) {
  const [asked, setAsked] = useState<Asked>();
  const { act, onClick, busy } = useAct(refresh);
  const handle = daemonClient().disk(name);
  const active = activeOf(stream);

  const step = async (): Promise<string> => {
    const { copied, done } = await handle.step();
    return done ? "Nothing is missing any more" : `One step: ${bytes(copied)} came`;
  };
  const pause = async (): Promise<string> => {
    await handle.pause();
    return "The stream is paused, also over restarts";
  };
  const resume = async (): Promise<string> => {
    await handle.resume();
    return "The stream goes on";
  };
  const close = (): void => setAsked(undefined);
  const button = (label: string, press: () => void, kind = "") => (
    <button type="button" class={kind} disabled={busy} onClick={press}>
      {label}
    </button>
  );
  return (
    <div class="actions">
      {canFetch && active === undefined && button("Start stream…", () => setAsked("start"), "primary")}
      {active?.state === "paused" && button("Resume", onClick(resume), "primary")}
      {active !== undefined && active.state !== "paused" && button("Pause", onClick(pause))}
      {canFetch && (active === undefined || active.state === "paused") && button("One step", onClick(step))}
      {active !== undefined && button("Speed…", () => setAsked("speed"))}
      {active !== undefined && button("Cancel…", () => setAsked("cancel"))}
      {backing !== undefined && button("Replace source…", () => setAsked("replace"))}
      {asked === "start" && (
        <Dialog
          title={`Stream ${name}`}
          act="Start"
          onClose={close}
          onAct={(form) =>
            act(async () => {
              const speed = speedIn(form);
              await handle.stream(speed === null ? {} : { speed });
              return "The stream was started";
            })
          }
        >
          <p>
            All that is missing is fetched, and then the disk stands alone. Its machine goes on meanwhile, and goes
            first.
          </p>
          <SpeedField speed={undefined} />
        </Dialog>
      )}
      {asked === "speed" && (
        <Dialog
          title="Speed of the stream"
          act="Set"
          onClose={close}
          onAct={(form) =>
            act(async () => {
              await handle.setSpeed(speedIn(form));
              return "The speed was changed";
            })
          }
        >
          <SpeedField speed={active?.speed} />
        </Dialog>
      )}
      {asked === "cancel" && (
        <Dialog
          title="Cancel the stream?"
          act="Cancel the stream"
          dangerous
          onClose={close}
          onAct={() =>
            act(async () => {
              await handle.cancel();
              return "The stream was cancelled; what was fetched stays";
            })
          }
        >
          <p>What was fetched stays, and a stream can be started again later. Until then the disk needs its source.</p>
        </Dialog>
      )}
      {asked === "replace" && (
        <Dialog
          title="Another place for what is missing"
          act="Replace"
          dangerous
          onClose={close}
          onAct={(form) =>
            act(async () => {
              const place = String(form.get("backing")).trim();
              await replaceSource({ backing: place, force: form.get("force") !== null });
              return `The source is now ${place}`;
            })
          }
        >
          <p>
            For a source that has moved. Its size and samples of it must agree with the one that was; the disk is away
            from its machine for a moment.
          </p>
          <Field label="Path or URI">
            <input name="backing" required defaultValue={backing} autocomplete="off" spellcheck={false} />
          </Field>
          <label class="check">
            <input type="checkbox" name="force" /> Also when they do not agree: the disk may then read as neither of the
            two
          </label>
        </Dialog>
      )}
    </div>
  );
}

function SpeedField({ speed }: { readonly speed: number | undefined }) {
  return (
    <Field label="At most, in MiB a second (empty: no limit)">
      <input
        name="speed"
        type="number"
        min="0.001"
        step="any"
        defaultValue={speed === undefined ? "" : String(speed / MIB)}
      />
    </Field>
  );
}

function Field({ label, children }: { readonly label: string; readonly children: ComponentChildren }) {
  return (
    // biome-ignore lint/a11y/noLabelWithoutControl: the control is its child
    <label class="field">
      <span>{label}</span>
      {children}
    </label>
  );
}

/** Bytes a second; null for no limit. */
function speedIn(form: FormData): number | null {
  const text = String(form.get("speed") ?? "").trim();
  return text === "" ? null : Math.max(1, Math.round(Number(text) * MIB));
}
