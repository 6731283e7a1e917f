import { keepToken, token } from "../session.ts";
import { line } from "../state/fleet.ts";

/** For who has come without a token, or with a wrong one. */
export function TokenForm() {
  const { value } = line;
  const enter = (event: SubmitEvent): void => {
    event.preventDefault();
    const given = new FormData(event.currentTarget as HTMLFormElement).get("token");
    if (typeof given !== "string" || given.trim() === "") return;
    token.value = undefined;
    keepToken(given.trim());
  };
  return (
    <section class="entry panel">
      <h1>This page needs the daemon's token</h1>
      <p>
        Open the address that <code>streamdisk daemon</code> prints, which carries it, or paste the content of the file{" "}
        <code>token</code> in its state directory.
      </p>
      {value.state === "refused" && <p class="bad-text">{value.why}</p>}
      <form onSubmit={enter}>
        <label for="token">Token</label>
        <input id="token" name="token" type="password" autocomplete="off" required />
        <button type="submit" class="primary">
          Open
        </button>
      </form>
    </section>
  );
}
