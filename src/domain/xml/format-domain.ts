import type { BackingDescription, DiskDescription, DiskSource, DomainDescription } from "../description.ts";

const ESCAPES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;" };

/** Writes what is known of a domain as libvirt's XML: the opposite of `parseDomainXml`, for the part that is about disks. */
export function formatDomainXml({ name, uuid, disks }: DomainDescription): string {
  const lines = [
    "<domain type='qemu'>",
    `  <name>${escaped(name)}</name>`,
    ...(uuid === undefined ? [] : [`  <uuid>${escaped(uuid)}</uuid>`]),
    "  <devices>",
    ...disks.flatMap(diskLines).map((line) => `    ${line}`),
    "  </devices>",
    "</domain>",
  ];
  return `${lines.join("\n")}\n`;
}

function diskLines(disk: DiskDescription): string[] {
  const { target, bus, alias, device, readOnly, format, source, backing } = disk;
  return [
    `<disk${attributes({ type: typeOf(source), device })}>`,
    ...(format === undefined ? [] : [`  <driver${attributes({ name: "qemu", type: format })}/>`]),
    ...sourceLines(source).map((line) => `  ${line}`),
    ...backingLines(backing).map((line) => `  ${line}`),
    `  <target${attributes({ dev: target, bus })}/>`,
    ...(readOnly ? ["  <readonly/>"] : []),
    ...(alias === undefined ? [] : [`  <alias${attributes({ name: alias })}/>`]),
    "</disk>",
  ];
}

function backingLines([first, ...rest]: readonly BackingDescription[]): string[] {
  if (first === undefined) return [];
  return [
    `<backingStore${attributes({ type: typeOf(first.source) })}>`,
    ...(first.format === undefined ? [] : [`  <format${attributes({ type: first.format })}/>`]),
    ...sourceLines(first.source).map((line) => `  ${line}`),
    ...backingLines(rest).map((line) => `  ${line}`),
    "</backingStore>",
  ];
}

function typeOf(source: DiskSource | undefined): string {
  if (source === undefined) return "file";
  return source.kind === "other" ? source.type : source.kind;
}

function sourceLines(source: DiskSource | undefined): string[] {
  if (source === undefined) return [];
  if (source.kind === "other") return ["<source/>"];
  if (source.kind !== "network")
    return [`<source${attributes({ [source.kind === "block" ? "dev" : "file"]: source.path })}/>`];
  const { protocol, name, hosts } = source;
  return [
    `<source${attributes({ protocol, name })}>`,
    ...hosts.map(({ name: host, port, socket }) => {
      const transport = socket === undefined ? undefined : "unix";
      return `  <host${attributes({ transport, socket, name: host, port: port?.toString() })}/>`;
    }),
    "</source>",
  ];
}

function attributes(values: Readonly<Record<string, string | undefined>>): string {
  const present = Object.entries(values).filter(([, value]) => value !== undefined);
  return present.map(([name, value]) => ` ${name}='${escaped(value ?? "")}'`).join("");
}

function escaped(text: string): string {
  return text.replace(/[&<>']/g, (letter) => ESCAPES[letter]!);
}
