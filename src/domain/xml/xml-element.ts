/**
 * XML as plain elements: what a domain's description is read from. Nothing outside of the text is ever looked at: a document type is
 * refused, so there are no entities but the five of XML itself and characters by number.
 */
import { XMLParser, XMLValidator } from "fast-xml-parser";
import { StreamdiskError } from "../../errors/index.ts";

/** A description with hundreds of disks, each with a long chain, takes less. */
const LONGEST_TEXT = 4 * 2 ** 20;
/** libvirt follows 200 backing files; each is an element in an element. */
const DEEPEST = 400;

const TEXT = "#text";
const ATTRIBUTES = ":@";

type Parsed = Readonly<Record<string, unknown>>;

export class XmlElement {
  readonly name: string;
  readonly #children: readonly Parsed[];
  readonly #attributes: Parsed;

  constructor(name: string, children: readonly Parsed[], attributes: Parsed) {
    this.name = name;
    this.#children = children;
    this.#attributes = attributes;
  }

  /** An attribute; undefined when it has none of that name. */
  attribute(name: string): string | undefined {
    const value = Object.hasOwn(this.#attributes, name) ? this.#attributes[name] : undefined;
    return value === undefined ? undefined : decoded(String(value));
  }

  /** Of its attributes, and of its elements in order: for a reader that knows all that it reads. */
  get attributeNames(): string[] {
    return Object.keys(this.#attributes);
  }

  get elementNames(): string[] {
    return this.#children.flatMap((child) => Object.keys(child).filter((key) => key !== TEXT && key !== ATTRIBUTES));
  }

  /** Its elements of a name, in order. */
  all(name: string): XmlElement[] {
    return this.#children.filter((child) => Object.hasOwn(child, name)).map((child) => elementOf(name, child));
  }

  /** Its first element of a name. */
  first(name: string): XmlElement | undefined {
    return this.all(name)[0];
  }

  /** Its text, without blanks around it. */
  get text(): string {
    const parts = this.#children.filter((child) => Object.hasOwn(child, TEXT)).map((child) => String(child[TEXT]));
    return decoded(parts.join("")).trim();
  }
}

/**
 * Reads the root element of a document.
 *
 * @throws {StreamdiskError} `invalid-argument` for what is not well-formed, too large or too deep, or has a document type
 */
export function parseXml(text: string, root: string): XmlElement {
  if (text.length > LONGEST_TEXT) throw unreadable(`it has ${text.length} characters, more than ${LONGEST_TEXT}`);
  if (/<!(?:DOCTYPE|ENTITY)/i.test(text)) throw unreadable("it has a document type, which is not followed");
  const found = XMLValidator.validate(text);
  if (found !== true) throw unreadable(`${found.err.msg} (line ${found.err.line})`);
  const parser = new XMLParser({
    preserveOrder: true,
    ignoreAttributes: false,
    attributeNamePrefix: "",
    parseTagValue: false,
    parseAttributeValue: false,
    processEntities: false,
    ignoreDeclaration: true,
    ignorePiTags: true,
    maxNestedTags: DEEPEST,
  });
  let parsed: readonly Parsed[];
  try {
    parsed = parser.parse(text) as readonly Parsed[];
  } catch (error) {
    throw unreadable((error as Error).message);
  }
  const top = parsed.find((node) => Object.hasOwn(node, root));
  if (top === undefined) throw unreadable(`its root is not <${root}>`);
  return elementOf(root, top);
}

function elementOf(name: string, node: Parsed): XmlElement {
  const attributes = Object.hasOwn(node, ATTRIBUTES) ? (node[ATTRIBUTES] as Parsed) : {};
  return new XmlElement(name, node[name] as readonly Parsed[], attributes);
}

const NAMED: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

function decoded(text: string): string {
  return text.replace(/&(?:#x([0-9a-fA-F]{1,6})|#(\d{1,7})|(amp|lt|gt|quot|apos));/g, (whole, hex, decimal, name) => {
    if (name !== undefined) return NAMED[name]!;
    const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

function unreadable(why: string): StreamdiskError {
  return new StreamdiskError("invalid-argument", `The XML of a domain can't be read: ${why}`);
}
