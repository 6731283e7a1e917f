/** Reading XML of which nothing may be passed over in silence. */
import { StreamdiskError } from "../../errors/index.ts";
import type { XmlElement } from "../xml/xml-element.ts";

export interface Known {
  readonly attributes?: readonly string[];
  /** Elements of which there is one at most. */
  readonly elements?: readonly string[];
  /** Elements of which there may be more. */
  readonly many?: readonly string[];
  /** Elements that change nothing here, whatever they hold. */
  readonly ignored?: readonly string[];
}

/** @throws {StreamdiskError} `unsupported` that names the first thing in an element that is not known */
export function refuseUnknown(element: XmlElement, known: Known): void {
  const { attributes = [], elements = [], many = [], ignored = [] } = known;
  const attribute = element.attributeNames.find((name) => !attributes.includes(name));
  if (attribute !== undefined) {
    const there = attributes.length === 0 ? "it takes none" : `it takes ${attributes.join(", ")}`;
    throw unsupported(`the attribute '${attribute}' of <${element.name}>: ${there}`);
  }
  const names = element.elementNames;
  const all = [...elements, ...many];
  const stranger = names.find((name) => ![...all, ...ignored].includes(name));
  if (stranger !== undefined) {
    const there = all.length === 0 ? "nothing is" : `${all.map((name) => `<${name}>`).join(", ")} are`;
    throw unsupported(`<${stranger}> in <${element.name}>: ${there} supported there`);
  }
  const twice = elements.find((name) => names.indexOf(name) !== names.lastIndexOf(name));
  if (twice !== undefined) throw unsupported(`more than one <${twice}> in <${element.name}>`);
}

/** An attribute that may have some values only. @returns it; undefined when it is not there */
export function oneOf<T extends string>(element: XmlElement, attribute: string, values: readonly T[]): T | undefined {
  const value = element.attribute(attribute);
  if (value === undefined) return undefined;
  const known = values.find((one) => one === value);
  if (known === undefined)
    throw unsupported(`${attribute}='${value}' of <${element.name}>: it can be ${values.join(", ")}`);
  return known;
}

/** An absolute path. */
export function pathIn(element: XmlElement, path: string): string {
  if (path.startsWith("/") && !path.includes("\0")) return path;
  throw invalid(`<${element.name}> takes an absolute path, not '${path}'`);
}

export function unsupported(what: string): StreamdiskError {
  const message = `A machine cannot be run as its XML says, since it has ${what}`;
  return new StreamdiskError("unsupported", message);
}

export function invalid(what: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", `The XML of a machine can't be used: ${what}`);
}
