/** The calls about machines that are made from images. */
import { z } from "zod";
import { deployment, deploymentName, newDeployment } from "./deployment-schemas.ts";
import { flag, nothing } from "./inputs.ts";
import { route } from "./route.ts";

const ofDeployment = z.object({ deployment: deploymentName }).strict();

export const DEPLOYMENT_ROUTES = {
  listDeployments: route({
    method: "GET",
    path: "/v1/deployments",
    summary: "What was deployed, in the order of the names",
    result: z.object({ deployments: z.array(deployment) }),
    status: 200,
    errors: [],
  }),
  deploy: route({
    method: "POST",
    path: "/v1/deployments",
    summary: "Make a disk over an image and a machine on it, which runs while the disk is filled; all of it or nothing",
    body: newDeployment,
    result: deployment,
    status: 201,
    errors: ["exists", "not-found", "refused", "invalid-image", "in-use", "no-space", "source-lost"],
  }),
  getDeployment: route({
    method: "GET",
    path: "/v1/deployments/{deployment}",
    summary: "One deployment; while it is being made too",
    params: ofDeployment,
    result: deployment,
    status: 200,
    errors: ["not-found"],
  }),
  undeploy: route({
    method: "DELETE",
    path: "/v1/deployments/{deployment}",
    summary: "Stop its machine, and remove it with its disk",
    params: ofDeployment,
    query: z
      .object({
        force: flag.default(false).describe("Do not wait for the guest to power off"),
        keepDisk: flag
          .default(false)
          .describe("Its image stays; one that is not complete lies over the image it was made from"),
      })
      .strict(),
    result: nothing,
    status: 204,
    errors: ["not-found", "refused"],
  }),
} as const;
