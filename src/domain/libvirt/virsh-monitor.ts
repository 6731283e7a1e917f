/**
 * A monitor that libvirt has: commands by `virsh qemu-monitor-command`, a process each, events by one `virsh qemu-monitor-event` for as
 * long as the link lasts. libvirt marks a domain as tainted whose monitor was used like that.
 *
 * The link ends with its connection to libvirt, and when the domain is found not to run; the next command makes another. A process of
 * events that ends for another reason ends nothing: whoever waits for something looks by itself too.
 */
import { systemClock } from "../../block/index.ts";
import { StreamdiskError } from "../../errors/index.ts";
import { type JsonObject, JsonValue } from "../qmp/json-value.ts";
import { LONGEST_MESSAGE, MessageSplitter } from "../qmp/message-splitter.ts";
import { readAnswer } from "../qmp/qmp-error.ts";
import {
  DEFAULT_TIMEOUT_MS,
  type QmpConnectOptions,
  type QmpLink,
  type QmpListener,
  type QmpTransport,
} from "../qmp/transport.ts";
import { inWords, type LibvirtAddress } from "./address.ts";
import { complaintsOf, endVirsh, runVirsh, startVirsh, type VirshProcess } from "./virsh.ts";
import { virshFailure } from "./virsh-error.ts";

/** An event has a few hundred bytes. */
const LONGEST_EVENT = 64 * 1024;
/** A process of events lasts no longer, and is followed by another: one whose parent was killed would stay for ever. */
const EVENTS_S = 600;
/** What tells that the domain can't be reached by this link any more. */
const ENDS: ReadonlySet<string> = new Set(["shutdown", "not-found", "permission"]);

export function virshTransport(address: LibvirtAddress): QmpTransport {
  return {
    name: inWords(address),
    open: async (options, listener) => new VirshLink(address, options, listener),
  };
}

class VirshLink implements QmpLink {
  readonly #address: LibvirtAddress;
  readonly #options: QmpConnectOptions;
  readonly #listener: QmpListener;
  #events: VirshProcess | undefined;
  readonly #closed = new AbortController();
  #text = "";
  #over: StreamdiskError | undefined;

  constructor(address: LibvirtAddress, options: QmpConnectOptions, listener: QmpListener) {
    this.#address = address;
    this.#options = options;
    this.#listener = listener;
    void this.#follow();
  }

  get isOver(): boolean {
    return this.#over !== undefined;
  }

  async execute(command: string, args: JsonObject, signal?: AbortSignal): Promise<JsonValue> {
    if (this.#over !== undefined) throw this.#over;
    const { timeoutMs = DEFAULT_TIMEOUT_MS, clock } = this.#options;
    const text = JSON.stringify({ execute: command, arguments: args });
    const both = AbortSignal.any([this.#closed.signal, ...(signal === undefined ? [] : [signal])]);
    let printed: Buffer;
    try {
      const options = { timeoutMs, limit: LONGEST_MESSAGE, clock, signal: both };
      printed = await runVirsh(this.#address, "qemu-monitor-command", [text], options);
    } catch (error) {
      if (error instanceof StreamdiskError && ENDS.has(error.code)) this.#end(error);
      throw error;
    }
    return readAnswer(inWords(this.#address), command, this.#read(command, printed));
  }

  close(): void {
    this.#end(
      new StreamdiskError("shutdown", `The link to the domain '${inWords(this.#address)}' was closed`, {
        node: inWords(this.#address),
      }),
    );
  }

  #read(command: string, printed: Buffer): JsonObject {
    try {
      const [message, ...more] = new MessageSplitter().feed(printed);
      if (message === undefined || more.length > 0) throw new SyntaxError("it printed no answer, or several");
      const answer = JSON.parse(message) as JsonObject;
      if (!("return" in answer) && !("error" in answer)) throw new SyntaxError("it printed what is no answer");
      return answer;
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      const said = `virsh qemu-monitor-command gave no answer to ${command} for '${inWords(this.#address)}': ${error.message}`;
      throw new StreamdiskError("protocol", said, { node: inWords(this.#address), operation: command }, error);
    }
  }

  async #follow(): Promise<void> {
    const { clock = systemClock } = this.#options;
    const began = clock.now();
    const how = ["qemu-monitor-event", "--loop", `--timeout=${EVENTS_S}`] as const;
    // Whoever gives a command is told why there can be none.
    const events = await startVirsh(this.#address, how).catch(() => undefined);
    if (events === undefined) return;
    if (this.#over !== undefined) return endVirsh(events);
    this.#events = events;
    const complaints = complaintsOf(events);
    events.stdout.setEncoding("utf8").on("data", (text: string) => this.#hear(text));
    events.once("close", () => {
      if (this.#over !== undefined) return;
      const failure = virshFailure(this.#address, "qemu-monitor-event", complaints());
      if (failure.code === "shutdown") this.#end(failure);
      // Its status does not count: virsh takes it for a failure when nothing has happened in all that time.
      else if (clock.now() - began > (EVENTS_S / 2) * 1000) void this.#follow();
    });
  }

  #hear(text: string): void {
    const lines = (this.#text + text).split("\n");
    this.#text = lines.pop()!.slice(0, LONGEST_EVENT);
    for (const line of lines) this.#heard(line);
  }

  /** `event STOP at 12.345 for domain 'web': {"reason": "..."}`; what is no event is nobody's business. */
  #heard(line: string): void {
    const [, name, text] = /^event (\w{1,100}) at [\d.]+ for domain '.*?': (<null>|\{.*\})$/.exec(line) ?? [];
    if (name === undefined || text === undefined || this.#over !== undefined) return;
    let data: unknown;
    try {
      data = text === "<null>" ? {} : JSON.parse(text);
    } catch {
      return;
    }
    try {
      this.#listener.event({ name, data: new JsonValue(data, name) });
    } catch (error) {
      const said = `The event ${name} of '${inWords(this.#address)}' is not understood: ${(error as Error).message}`;
      this.#end(new StreamdiskError("protocol", said, { node: inWords(this.#address) }, error));
    }
  }

  #end(error: StreamdiskError): void {
    if (this.#over !== undefined) return;
    this.#over = error;
    this.#closed.abort(error);
    if (this.#events !== undefined) endVirsh(this.#events);
    this.#listener.ended(error);
  }
}
