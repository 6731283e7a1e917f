import type { Command } from "commander";
import { defineJobCommand } from "../job-command.ts";

export function define(command: Command): void {
  defineJobCommand(command, "cancelStream", "streamdisk cancel vm1");
}
