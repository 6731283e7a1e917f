/** The calls about images that are offered to others. */
import { z } from "zod";
import { clients, nothing } from "./inputs.ts";
import { diskName } from "./names.ts";
import { route } from "./route.ts";
import { nbdExport, newExport } from "./schemas.ts";

const ofExport = z.object({ export: diskName }).strict();

export const EXPORT_ROUTES = {
  listExports: route({
    method: "GET",
    path: "/v1/exports",
    summary: "Images that are offered to others",
    result: z.object({ exports: z.array(nbdExport) }),
    status: 200,
    errors: [],
  }),
  addExport: route({
    method: "POST",
    path: "/v1/exports",
    summary: "Offer an image under a name, from now on and after every restart",
    body: newExport,
    result: nbdExport,
    status: 201,
    errors: ["exists", "not-found", "refused", "in-use", "invalid-image"],
  }),
  exportClients: route({
    method: "GET",
    path: "/v1/exports/{export}/clients",
    summary: "Who is connected to an export, what each has asked for, and how long it waited",
    params: ofExport,
    result: clients,
    status: 200,
    errors: ["not-found"],
  }),
  removeExport: route({
    method: "DELETE",
    path: "/v1/exports/{export}",
    summary: "Offer it no more",
    params: ofExport,
    result: nothing,
    status: 204,
    errors: ["not-found"],
  }),
} as const;
