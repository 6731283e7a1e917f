/** What virsh's complaints mean. libvirt gives no codes through it, so they are told apart by their words (libvirt 9). */
import { type ErrorCode, StreamdiskError, wrapSystemError } from "../../errors/index.ts";
import { inWords, type LibvirtAddress } from "./address.ts";

interface Meaning {
  readonly said: RegExp;
  readonly code: ErrorCode;
  readonly words: string;
  /** Whether it is the way to the domain that is gone: a later try may find it again. */
  readonly isWay?: true;
}

/** The first that fits counts. */
const MEANINGS: readonly Meaning[] = [
  {
    ...{ said: /access denied|permission denied|authentication|operation forbidden/i, code: "permission", isWay: true },
    words: "libvirt does not let us",
  },
  // A connection that ends makes whatever was under way fail in words of its own, too.
  {
    said: /failed to connect to the hypervisor|client socket is closed|disconnected from|end of file while reading data|cannot (?:recv|write) data/i,
    ...{ code: "shutdown", words: "libvirt does not answer there", isWay: true },
  },
  { said: /domain is not running/, code: "shutdown", words: "it does not run. Start it: virsh start" },
  { said: /failed to get domain/, code: "not-found", words: "there is no such domain" },
  {
    ...{ said: /cannot acquire state change lock/, code: "in-use", isWay: true },
    words: "libvirt is busy with it",
  },
  { said: /monitor/i, code: "shutdown", words: "its QEMU has ended" },
];

/** The error for a command of virsh's that failed, from what it printed. */
export function virshFailure(address: LibvirtAddress, operation: string, said: string): StreamdiskError {
  const meaning = MEANINGS.find((one) => one.said.test(said));
  const { code, words } = meaning ?? { code: "io" as const, words: "virsh failed" };
  const text = said
    .split("\n")
    .map((line) => line.replace(/^error: /, "").trim())
    .filter((line) => line !== "")
    .join("; ");
  const message = `Could not speak to the domain '${inWords(address)}': ${words}${text === "" ? "" : ` (${text})`}`;
  return new StreamdiskError(code, message, {
    node: inWords(address),
    operation: meaning?.isWay ? "connect" : operation,
  });
}

/** @returns `unsupported` when there is no virsh; what the system says otherwise */
export function virshMissing(error: NodeJS.ErrnoException): Error {
  if (error.code !== "ENOENT") return wrapSystemError(error, "virsh", "run");
  const message =
    "virsh could not be run, by which libvirt is spoken to: there is no virsh on the PATH: install it (Debian's package libvirt-clients)";
  return new StreamdiskError("unsupported", message, {}, error);
}
