/**
 * The command line as a whole: which commands there are. Only the module of the command that is called is loaded, so that
 * start-up stays fast whatever the others need.
 */
import { Command } from "commander";
import { packageVersion } from "./version.ts";

/** What a command's module exports: it adds arguments, options, help and the action. */
export interface CommandModule {
  define(command: Command): void;
}

interface Entry {
  readonly summary: string;
  load(): Promise<CommandModule>;
}

/** Every command, in the order of the help. */
export const COMMANDS: Readonly<Record<string, Entry>> = {
  create: { summary: "make a new image", load: () => import("./commands/create.ts") },
  info: { summary: "show what an image is and how much of it is local", load: () => import("./commands/info.ts") },
  map: { summary: "show where each range of an image comes from", load: () => import("./commands/map.ts") },
  check: { summary: "look for damage and leaks in an image", load: () => import("./commands/check.ts") },
  compare: { summary: "compare what two images read as", load: () => import("./commands/compare.ts") },
  convert: { summary: "copy an image into a new one of any format", load: () => import("./commands/convert.ts") },
  resize: { summary: "change the virtual size of an image", load: () => import("./commands/resize.ts") },
  rebase: { summary: "name another backing file, when it has moved", load: () => import("./commands/rebase.ts") },
  stream: { summary: "fill an overlay until it needs no backing file", load: () => import("./commands/stream.ts") },
  serve: {
    summary: "serve an image over NBD while what it lacks is fetched",
    load: () => import("./commands/serve.ts"),
  },
  daemon: { summary: "keep disks, exports and streams for good", load: () => import("./commands/daemon.ts") },
  disk: { summary: "make, list and change disks of the daemon", load: () => import("./commands/disk.ts") },
  deploy: {
    summary: "start a machine from an image, which is fetched meanwhile",
    load: () => import("./commands/deploy.ts"),
  },
  undeploy: { summary: "take away what was deployed", load: () => import("./commands/undeploy.ts") },
  deployments: { summary: "list what was deployed", load: () => import("./commands/deployments.ts") },
  domain: {
    summary: "take up running virtual machines, to stream their disks",
    load: () => import("./commands/domain.ts"),
  },
  export: { summary: "offer images to others by the daemon", load: () => import("./commands/export.ts") },
  source: { summary: "list where disks of the daemon come from", load: () => import("./commands/source.ts") },
  pause: { summary: "pause the stream of a disk, also over restarts", load: () => import("./commands/pause.ts") },
  resume: { summary: "let a paused stream go on", load: () => import("./commands/resume.ts") },
  cancel: { summary: "end the stream of a disk early", load: () => import("./commands/cancel.ts") },
  speed: { summary: "change the limit of a stream", load: () => import("./commands/speed.ts") },
  jobs: { summary: "list the streams of the daemon", load: () => import("./commands/jobs.ts") },
  events: { summary: "show what has happened to disks of the daemon", load: () => import("./commands/events.ts") },
  watch: { summary: "watch one disk of the daemon", load: () => import("./commands/watch.ts") },
  top: { summary: "watch all disks of the daemon", load: () => import("./commands/top.ts") },
  nbd: { summary: "show what an NBD server offers", load: () => import("./commands/nbd.ts") },
  doctor: { summary: "show what works on this machine and what does not", load: () => import("./commands/doctor.ts") },
  demo: {
    summary: "boot a machine whose disk arrives meanwhile: kill -9, go on, verify",
    load: () => import("./commands/demo.ts"),
  },
};

/** The program with one command, or every command, complete. */
export async function buildProgram(argv: readonly string[], all = false): Promise<Command> {
  const program = new Command("streamdisk")
    .description("Start a virtual machine before its disk has arrived, and fill the disk in.")
    .version(packageVersion(), "-V, --version", "print the version")
    .helpOption("-h, --help", "show this help")
    .helpCommand("help [command]", "show the help of a command")
    .addHelpText("after", `\nStart with:\n  streamdisk demo\n  streamdisk help stream`);
  forbidExit(program);
  program.enablePositionalOptions();
  const called = argv.slice(0, 2);
  for (const [name, { summary, load }] of Object.entries(COMMANDS)) {
    const command = program.command(name).summary(summary).description(sentence(summary));
    command.helpOption("-h, --help", "show this help");
    // An option after the name of a subcommand is the subcommand's, also when both have one of that name.
    command.enablePositionalOptions();
    forbidExit(command);
    if (all || called.includes(name)) (await load()).define(command);
  }
  return program;
}

/**
 * `resize IMAGE -1G`: a size to take off is no option, so it goes to the end, after `--`. Whoever writes `--` knows.
 */
export function separateSize(argv: readonly string[]): string[] {
  const at = argv.findIndex((word) => /^-\.?\d/.test(word));
  if (argv[0] !== "resize" || at < 0 || argv.includes("--")) return [...argv];
  return [...argv.slice(0, at), ...argv.slice(at + 1), "--", argv[at] ?? ""];
}

function forbidExit(command: Command): void {
  command.exitOverride().configureOutput({ outputError: () => {} });
}

function sentence(summary: string): string {
  return `${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`;
}
