import { useEffect } from "preact/hooks";
import { token } from "../session.ts";
import { daemon, followDaemon, line } from "../state/fleet.ts";
import { isOfMachine } from "../state/machines.ts";
import { shownDisk } from "../state/route.ts";
import { DiskList } from "./disk-list.tsx";
import { DiskPage } from "./disk-page.tsx";
import { LineNotice } from "./line-notice.tsx";
import { MachineDiskPage } from "./machine-disk-page.tsx";
import { Notice } from "./notice.tsx";
import { TokenForm } from "./token-form.tsx";

export function App() {
  const known = token.value;
  const name = shownDisk.value;
  useEffect(() => {
    if (known === undefined) return;
    const leaving = new AbortController();
    line.value = { state: "connecting" };
    void followDaemon(leaving.signal);
    return () => leaving.abort();
  }, [known]);
  useEffect(() => {
    document.title = name === undefined ? "streamdisk" : `${name} - streamdisk`;
  }, [name]);
  const asks = known === undefined || line.value.state === "refused";
  return (
    <>
      <button type="button" class="skip" onClick={focusContent}>
        Skip to the content
      </button>
      <header class="top">
        <a class="brand" href="#/">
          <img src="./icon.svg" alt="" width="28" height="28" />
          streamdisk
        </a>
        <LineState />
      </header>
      <LineNotice />
      <main id="content" tabIndex={-1}>
        {asks ? <TokenForm /> : <Content name={name} />}
      </main>
      <Notice />
    </>
  );
}

function Content({ name }: { readonly name: string | undefined }) {
  if (name === undefined) return <DiskList />;
  return isOfMachine(name) ? <MachineDiskPage key={name} name={name} /> : <DiskPage key={name} name={name} />;
}

function focusContent(): void {
  document.getElementById("content")?.focus();
}

function LineState() {
  const { state } = line.value;
  const words = { connecting: "connecting", open: "live", lost: "not answering", refused: "no entry" }[state];
  const version = daemon.value?.version;
  return (
    <p class="line" data-state={state}>
      <span class="dot" aria-hidden="true" />
      {words}
      {version !== undefined && <span class="version">version {version}</span>}
    </p>
  );
}
