/** The CPU of a machine's XML: a model and features of it, or all that the host, or QEMU's emulation, has. */
import type { MachineCpu } from "../../jobs/index.ts";
import type { XmlElement } from "../xml/xml-element.ts";
import { invalid, oneOf, refuseUnknown, unsupported } from "./strict-xml.ts";

const WORD = /^[A-Za-z0-9._-]{1,64}$/;
/** What each policy of libvirt's makes of a feature; an optional one is the host's to give. */
const POLICIES: Readonly<Record<string, string | undefined>> = {
  ...{ force: "on", require: "on", optional: undefined, disable: "off", forbid: "off" },
};

/** @returns undefined when nothing is said beyond what is there anyway */
export function readCpu(cpu: XmlElement | undefined): MachineCpu | undefined {
  if (cpu === undefined) return undefined;
  refuseUnknown(cpu, { attributes: ["mode", "match", "check", "migratable"], elements: ["model"], many: ["feature"] });
  const mode = oneOf(cpu, "mode", ["custom", "host-passthrough", "maximum"]);
  oneOf(cpu, "match", ["exact"]);
  const model = cpu.first("model");
  if (model !== undefined && mode !== undefined && mode !== "custom")
    throw unsupported(`a <model> of a <cpu> of the mode ${mode}`);
  if (model !== undefined) refuseUnknown(model, { attributes: ["fallback"] });
  if (model !== undefined && !WORD.test(model.text)) throw invalid(`'${model.text}' is no model of CPU`);
  const features = cpu.all("feature").flatMap(readFeature);
  if (model === undefined && features.length === 0) return undefined;
  return { ...(model !== undefined && { model: model.text }), features };
}

function readFeature(feature: XmlElement): string[] {
  refuseUnknown(feature, { attributes: ["policy", "name"] });
  const name = feature.attribute("name") ?? "";
  if (!WORD.test(name)) throw invalid(`'${name}' is no feature of a CPU`);
  const state = POLICIES[oneOf(feature, "policy", Object.keys(POLICIES)) ?? "require"];
  // QEMU writes with dashes what the processors' makers write otherwise.
  return state === undefined ? [] : [`${name.replaceAll("_", "-")}=${state}`];
}
