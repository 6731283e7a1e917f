/** Deployments, as people read them. */
import type { Deployment } from "../api/index.ts";
import { columns, shellWord } from "./output.ts";
import { formatDuration, formatSize } from "./units.ts";

/** What was done, and how long each took. */
export function deployedSteps({ steps }: Pick<Deployment, "steps">): string {
  return steps.map((step) => `${step.name} ${formatDuration(step.ms)}`).join(", ");
}

/** The same of one that is made, and how to go on. */
export function deployedLines(deployment: Deployment): string[] {
  const { name, disk, image, domain, uri, qemuArgs } = deployment;
  const lines = [`'${name}' was made from '${image}': ${deployedSteps(deployment)}`];
  if (domain !== undefined) lines.push(`The machine runs: look at it with 'streamdisk domain show ${domain}'`);
  else if (uri !== undefined && qemuArgs !== undefined) {
    lines.push(`Its disk '${disk}' is served at ${uri}. For QEMU:`, `  ${qemuArgs.map(shellWord).join(" ")}`);
  }
  return [...lines, `The disk is filled meanwhile: watch it with 'streamdisk stream ${disk}'`];
}

export function deploymentsTable(deployments: readonly Deployment[]): string[] {
  if (deployments.length === 0) return ["Nothing is deployed: deploy an image with 'streamdisk deploy'"];
  const rows = deployments.map(({ name, state, disk, hydrated, stream, image }) => [
    ...[name, state, disk],
    hydrated ? "complete" : `${stream === undefined ? "-" : `${formatSize(stream.missingBytes)} missing`}`,
    image,
  ]);
  return columns([["NAME", "STATE", "DISK", "FILLED", "IMAGE"], ...rows]);
}
