/** The calls about domains; streams of their disks have the same calls as all others. */
import { z } from "zod";
import {
  domain,
  domainDisk,
  domainDiskNow,
  machineStart,
  newDomain,
  newMachine,
  sourceReplaced,
  stopDomain,
} from "./domain-schemas.ts";
import { deviceName, diskName, domainName } from "./names.ts";
import { route } from "./route.ts";
import { newSource } from "./schemas.ts";

const ofDomain = z.object({ domain: domainName }).strict();
const ofDomainDisk = z.object({ domain: domainName, device: deviceName }).strict();

export const DOMAIN_ROUTES = {
  listDomains: route({
    method: "GET",
    path: "/v1/domains",
    summary: "The domains, in the order of their names",
    result: z.object({ domains: z.array(domain) }),
    status: 200,
    errors: [],
  }),
  addDomain: route({
    method: "POST",
    path: "/v1/domains",
    summary: "Take up a virtual machine that runs",
    body: newDomain,
    result: domain,
    status: 201,
    errors: ["exists", "not-found", "in-use", "shutdown", "permission"],
  }),
  runMachine: route({
    method: "POST",
    path: "/v1/machines",
    summary: "Make a virtual machine, or make one that is stopped anew, and start it",
    body: newMachine,
    result: domain,
    status: 201,
    errors: ["exists", "in-use", "not-found", "unsupported", "refused", "permission"],
  }),
  startDomain: route({
    method: "POST",
    path: "/v1/domains/{domain}/start",
    summary: "Start a virtual machine that was made here",
    params: ofDomain,
    body: machineStart,
    result: domain,
    status: 200,
    errors: ["not-found", "in-use", "refused", "permission"],
  }),
  getDomain: route({
    method: "GET",
    path: "/v1/domains/{domain}",
    summary: "One domain",
    params: ofDomain,
    result: domain,
    status: 200,
    errors: ["not-found"],
  }),
  removeDomain: route({
    method: "DELETE",
    path: "/v1/domains/{domain}",
    summary: "Forget a virtual machine: one of somebody else's runs on, one that was made here must be stopped",
    params: ofDomain,
    result: z.undefined(),
    status: 204,
    errors: ["not-found", "in-use", "refused"],
  }),
  pauseDomain: route({
    method: "POST",
    path: "/v1/domains/{domain}/pause",
    summary: "Pause a virtual machine until it is resumed, whatever becomes of its sources and of the daemon",
    params: ofDomain,
    result: domain,
    status: 200,
    errors: ["not-found", "refused", "shutdown", "io"],
  }),
  resumeDomain: route({
    method: "POST",
    path: "/v1/domains/{domain}/resume",
    summary: "Let a virtual machine go on, whoever or whatever has paused it",
    params: ofDomain,
    result: domain,
    status: 200,
    errors: ["not-found", "refused", "shutdown", "io"],
  }),
  resetDomain: route({
    method: "POST",
    path: "/v1/domains/{domain}/reset",
    summary: "Reset a virtual machine, as its button does",
    params: ofDomain,
    result: domain,
    status: 200,
    errors: ["not-found", "refused", "shutdown", "io"],
  }),
  stopDomain: route({
    method: "POST",
    path: "/v1/domains/{domain}/stop",
    summary: "Have the guest power itself off, or end its QEMU; answered when that has ended",
    params: ofDomain,
    body: stopDomain,
    result: domain,
    status: 200,
    errors: ["not-found", "refused", "in-use", "shutdown", "io"],
  }),
  domainXml: route({
    method: "GET",
    path: "/v1/domains/{domain}/xml",
    summary: "Its XML, or one that is made of what its QEMU says",
    params: ofDomain,
    result: z.object({ xml: z.string() }),
    status: 200,
    errors: ["not-found", "shutdown"],
  }),
  domainDisk: route({
    method: "GET",
    path: "/v1/domains/{domain}/disks/{device}",
    summary: "One disk of a domain, and how much of it is local",
    params: ofDomainDisk,
    result: domainDiskNow,
    status: 200,
    errors: ["not-found", "unsupported", "shutdown"],
  }),
  attachDisk: route({
    method: "POST",
    path: "/v1/domains/{domain}/disks",
    summary: "Put a disk of the daemon into a machine that runs",
    params: ofDomain,
    body: z
      .object({
        disk: diskName,
        target: z
          .string()
          .regex(/^vd[a-z]{1,3}$/)
          .optional()
          .describe('"vdb"; absent: the first that is free'),
      })
      .strict(),
    result: domainDisk,
    status: 201,
    errors: ["not-found", "exists", "unsupported", "shutdown"],
  }),
  detachDisk: route({
    method: "DELETE",
    path: "/v1/domains/{domain}/disks/{device}",
    summary: "Take a disk out of a machine that was put in while it ran",
    params: ofDomainDisk,
    result: z.undefined(),
    status: 204,
    errors: ["not-found", "in-use", "shutdown"],
  }),
  replaceDomainSource: route({
    method: "POST",
    path: "/v1/domains/{domain}/disks/{device}/replace-source",
    summary: "Name another place for what a disk of a running machine lacks, when its source has died or moved",
    params: ofDomainDisk,
    body: newSource,
    result: sourceReplaced,
    status: 200,
    errors: ["not-found", "refused", "in-use", "source-lost", "shutdown"],
  }),
} as const;
