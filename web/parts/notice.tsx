import { signal } from "@preact/signals";

interface Said {
  readonly text: string;
  readonly bad: boolean;
}

const said = signal<Said | undefined>(undefined);
let timer: ReturnType<typeof setTimeout> | undefined;

/** Says what came of what somebody did. */
export function tell(text: string, { bad = false }: { readonly bad?: boolean } = {}): void {
  said.value = { text, bad };
  clearTimeout(timer);
  timer = setTimeout(
    () => {
      said.value = undefined;
    },
    bad ? 12_000 : 5_000,
  );
}

/** Where it is said. */
export function Notice() {
  const now = said.value;
  return (
    <div class="notice" role="status" data-bad={now?.bad === true}>
      {now !== undefined && <p>{now.text}</p>}
    </div>
  );
}
