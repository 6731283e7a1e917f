import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

interface DialogParts {
  readonly title: string;
  /** What the button that does it says. */
  readonly act: string;
  readonly dangerous?: boolean;
  /** Does it; the dialog stays open when that fails. */
  readonly onAct: (form: FormData) => Promise<void>;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
}

/** A question, or what is needed to do something. */
export function Dialog({ title, act, dangerous = false, onAct, onClose, children }: DialogParts) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    element.current?.showModal();
  }, []);
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    void onAct(form).then(
      () => element.current?.close(),
      () => {},
    );
  };
  return (
    <dialog ref={element} aria-labelledby="dialog-title" onClose={onClose}>
      <form onSubmit={submit}>
        <h2 id="dialog-title">{title}</h2>
        {children}
        <div class="dialog-buttons">
          <button type="button" onClick={() => element.current?.close()}>
            Back
          </button>
          <button type="submit" class={dangerous ? "danger" : "primary"}>
            {act}
          </button>
        </div>
      </form>
    </dialog>
  );
}
