/**
 * Which domain of which libvirt, as its user writes it. Both go into the arguments of a program, and a URI may tell that program to run
 * others (`qemu+ext:///system?command=`), to log in on other hosts, or to read files: so what may stand in them is said here, and all
 * else is refused.
 */
import { StreamdiskError } from "../../errors/index.ts";

export interface LibvirtAddress {
  /** Name or UUID. */
  readonly name: string;
  /** URI of the connection: "qemu:///system". */
  readonly connect: string;
}

/** What its monitor is called in messages. */
export function inWords({ name, connect }: LibvirtAddress): string {
  return `${name} of ${connect}`;
}

const LONGEST_NAME = 255;
const LONGEST_URI = 512;
/** QEMU and its images must be on this host: its NBD server is spoken to, and its paths are meant. */
const LOCAL_URI = /^qemu(?:\+unix)?:\/\/\/(?:system|session)(?:\?socket=\/[\w./@+-]+)?$/;

/** @throws {StreamdiskError} `invalid-argument` for what can't be the name of a domain, or would be taken for something else */
export function checkDomainName(name: string): string {
  const refuse = (why: string): StreamdiskError =>
    new StreamdiskError(
      "invalid-argument",
      `'${name.slice(0, 80)}' can't be used as the name of a libvirt domain: ${why}`,
    );
  if (name === "" || Buffer.byteLength(name) > LONGEST_NAME) throw refuse(`it must have 1 to ${LONGEST_NAME} bytes`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f/]/.test(name)) throw refuse("it has a slash or a control character");
  if (/^\d+$/.test(name))
    throw refuse("virsh takes a number for that of a running domain. Give its UUID (virsh domuuid)");
  return name;
}

/** @throws {StreamdiskError} `refused` for a URI that is not of a libvirt on this host */
export function checkConnectUri(uri: string): string {
  if (uri.length <= LONGEST_URI && LOCAL_URI.test(uri)) return uri;
  const message =
    `'${uri.slice(0, 80)}' can't be used as the URI of a libvirt: QEMU must run on this host. Give qemu:///system, qemu:///session or ` +
    "qemu+unix:///system?socket=/PATH";
  throw new StreamdiskError("refused", message);
}

/** What virsh connects to by itself. */
export function defaultConnectUri(): string {
  return process.getuid?.() === 0 ? "qemu:///system" : "qemu:///session";
}
