/**
 * The QMP commands that are used here, with what they take and what is read of their answers; QEMU's reference has the words. What
 * is not in this table can't be sent.
 */
import type { JsonObject, JsonValue } from "./json-value.ts";

/** A guest device with a drive (`query-block`). */
export interface QmpBlockDevice {
  /** Name of the BlockBackend, as in `-drive id=`; "" for devices whose drive is a node (`-blockdev`). */
  readonly device: string;
  /** Id or QOM path of the guest device; undefined for a drive without one. */
  readonly qdev: string | undefined;
  /** The node at the top, and undefined for a drive without medium. */
  readonly inserted: QmpNode | undefined;
  /** Since the machine went on the last time: "ok", "failed", "nospace"; undefined for a device that never stops it. */
  readonly ioStatus: string | undefined;
}

/** What a guest has had of a device since the start (`query-blockstats`). */
export interface QmpBlockStats {
  readonly qdev: string | undefined;
  /** Reads and writes that have ended. */
  readonly operations: number;
  /** How long they took together, in nanoseconds. */
  readonly nanoseconds: number;
}

/** A block node (`query-named-block-nodes`). */
export interface QmpNode {
  readonly nodeName: string;
  /** Its driver: "qcow2", "file", "nbd", "copy-on-read"... */
  readonly driver: string;
  readonly readOnly: boolean;
  /** The file of the image, or a description of it: `json:{...}`. */
  readonly file: string;
  /** What the image itself names as its backing file, if it has one. */
  readonly backingFile: string | undefined;
  /** Virtual size in bytes. */
  readonly length: number;
  /** Of a format that has clusters. */
  readonly clusterSize: number | undefined;
  /** Whether writes of zeroes become zeroes: "off", "on", "unmap". */
  readonly detectZeroes: string;
  /** Internal snapshots in the image. */
  readonly snapshots: number;
}

/** The graph of the block layer (`x-debug-query-block-graph`). */
export interface QmpGraph {
  readonly nodes: readonly { readonly id: number; readonly type: string; readonly name: string }[];
  readonly edges: readonly { readonly parent: number; readonly child: number; readonly name: string }[];
}

export interface QmpExport {
  readonly id: string;
  readonly nodeName: string;
}

/** A job (`query-jobs`). */
export interface QmpJob {
  readonly id: string;
  readonly type: string;
  readonly status: string;
  readonly current: number;
  readonly total: number;
  /** Why it is not going to do what it was to do. */
  readonly error: string | undefined;
}

/** What is known of a block job alone (`query-block-jobs`). */
export interface QmpBlockJob {
  readonly id: string;
  /** What has stopped it, if it was told to stop on errors: "ok", "failed", "nospace". */
  readonly ioStatus: string;
}

/** A device on a PCI bus of the machine's own (`query-pci`). */
export interface QmpPciDevice {
  readonly id: string;
  /** Whether it is a bridge with nothing behind it. */
  readonly isEmptyBridge: boolean;
}

interface Spec<A extends JsonObject, R> {
  /** Absent: only says of which type the arguments are. */
  readonly takes?: A;
  read(answer: JsonValue): R;
}

type None = Readonly<Record<string, never>>;

const nothing = (): void => {};

export const QMP_COMMANDS = {
  "query-status": { read: (answer) => answer.get("status").string() } as Spec<None, string>,
  stop: { read: nothing } as Spec<None, void>,
  cont: { read: nothing } as Spec<None, void>,
  system_reset: { read: nothing } as Spec<None, void>,
  system_powerdown: { read: nothing } as Spec<None, void>,
  quit: { read: nothing } as Spec<None, void>,
  "query-name": { read: (answer) => answer.get("name").optional((name) => name.string()) } as Spec<
    None,
    string | undefined
  >,
  "qom-get": { read: (answer) => answer.string() } as Spec<
    { path: string; property: "type" | "rerror" | "identity" },
    string
  >,
  "qom-list": { read: (answer) => answer.items().map((item) => item.get("name").string()) } as Spec<
    { path: "/objects" },
    string[]
  >,
  "object-add": { read: nothing } as Spec<{ "qom-type": "authz-simple"; id: string; identity: string }, void>,
  "object-del": { read: nothing } as Spec<{ id: string }, void>,
  "query-cpus-fast": { read: (answer) => answer.items().map((cpu) => cpu.get("thread-id").count()) } as Spec<
    None,
    number[]
  >,
  "query-block": { read: (answer) => answer.items().map(readDevice) } as Spec<None, QmpBlockDevice[]>,
  "query-blockstats": { read: (answer) => answer.items().map(readStats) } as Spec<None, QmpBlockStats[]>,
  "query-named-block-nodes": { read: (answer) => answer.items().map(readNode) } as Spec<{ flat: true }, QmpNode[]>,
  "x-debug-query-block-graph": { read: readGraph } as Spec<None, QmpGraph>,
  "query-block-exports": { read: (answer) => answer.items().map(readExport) } as Spec<None, QmpExport[]>,
  "query-block-jobs": { read: (answer) => answer.items().map(readBlockJob) } as Spec<None, QmpBlockJob[]>,
  "query-jobs": { read: (answer) => answer.items().map(readJob) } as Spec<None, QmpJob[]>,
  "nbd-server-start": { read: nothing } as Spec<
    { addr: { type: "unix"; data: { path: string } }; "max-connections"?: number },
    void
  >,
  "nbd-server-stop": { read: nothing } as Spec<None, void>,
  "block-export-add": { read: nothing } as Spec<
    { type: "nbd"; id: string; "node-name": string; name: string; writable: false; "allocation-depth": true },
    void
  >,
  "block-export-del": { read: nothing } as Spec<{ id: string; mode: "hard" }, void>,
  "block-stream": { read: nothing } as Spec<
    {
      "job-id": string;
      device: string;
      speed?: number;
      "base-node"?: string;
      "backing-file"?: string;
      "on-error"?: "stop";
      "auto-finalize": false;
      "auto-dismiss": false;
    },
    void
  >,
  "blockdev-add": { read: nothing } as Spec<JsonObject, void>,
  "blockdev-del": { read: nothing } as Spec<{ "node-name": string }, void>,
  device_add: { read: nothing } as Spec<JsonObject, void>,
  device_del: { read: nothing } as Spec<{ id: string }, void>,
  "query-pci": { read: (answer) => answer.items().flatMap(readPciBus) } as Spec<None, QmpPciDevice[]>,
  yank: { read: nothing } as Spec<{ instances: readonly { type: "block-node"; "node-name": string }[] }, void>,
  "block-job-set-speed": { read: nothing } as Spec<{ device: string; speed: number }, void>,
  "job-pause": { read: nothing } as Spec<{ id: string }, void>,
  "job-resume": { read: nothing } as Spec<{ id: string }, void>,
  "job-cancel": { read: nothing } as Spec<{ id: string }, void>,
  "job-finalize": { read: nothing } as Spec<{ id: string }, void>,
  "job-dismiss": { read: nothing } as Spec<{ id: string }, void>,
  "human-monitor-command": { read: (answer) => answer.string() } as Spec<{ "command-line": string }, string>,
} as const satisfies Record<string, Spec<JsonObject, unknown>>;

export type QmpCommand = keyof typeof QMP_COMMANDS;
export type QmpArguments<C extends QmpCommand> = (typeof QMP_COMMANDS)[C] extends Spec<infer A, unknown> ? A : never;
export type QmpResult<C extends QmpCommand> = ReturnType<(typeof QMP_COMMANDS)[C]["read"]>;

function readDevice(device: JsonValue): QmpBlockDevice {
  return {
    device: device.get("device").string(),
    qdev: device.get("qdev").optional((qdev) => qdev.string()),
    inserted: device.get("inserted").optional(readNode),
    ioStatus: device.get("io-status").optional((status) => status.string()),
  };
}

function readStats(device: JsonValue): QmpBlockStats {
  const stats = device.get("stats");
  const sum = (...names: string[]): number => names.reduce((all, name) => all + stats.get(name).amount(), 0);
  return {
    qdev: device.get("qdev").optional((qdev) => qdev.string()),
    operations: sum("rd_operations", "wr_operations"),
    nanoseconds: sum("rd_total_time_ns", "wr_total_time_ns"),
  };
}

function readNode(node: JsonValue): QmpNode {
  const image = node.get("image");
  return {
    nodeName: node.get("node-name").string(),
    driver: node.get("drv").string(),
    readOnly: node.get("ro").boolean(),
    file: node.get("file").string(),
    backingFile: image.get("backing-filename").optional((file) => file.string()),
    length: image.get("virtual-size").count(),
    clusterSize: image.get("cluster-size").optional((size) => size.count()),
    detectZeroes: node.get("detect_zeroes").string(),
    snapshots: image.get("snapshots").optional((snapshots) => snapshots.items().length) ?? 0,
  };
}

function readGraph(graph: JsonValue): QmpGraph {
  return {
    nodes: graph
      .get("nodes")
      .items()
      .map((node) => ({
        id: node.get("id").count(),
        type: node.get("type").string(),
        name: node.get("name").string(),
      })),
    edges: graph
      .get("edges")
      .items()
      .map((edge) => ({
        parent: edge.get("parent").count(),
        child: edge.get("child").count(),
        name: edge.get("name").string(),
      })),
  };
}

function readPciBus(bus: JsonValue): QmpPciDevice[] {
  const devices = bus.get("devices").items();
  return devices.map((device) => {
    const bridge = device.get("pci_bridge");
    const behind = bridge.absent ? undefined : (bridge.get("devices").optional((all) => all.items()) ?? []);
    return { id: device.get("qdev_id").string(), isEmptyBridge: behind?.length === 0 };
  });
}

function readExport(exported: JsonValue): QmpExport {
  return { id: exported.get("id").string(), nodeName: exported.get("node-name").string() };
}

function readBlockJob(job: JsonValue): QmpBlockJob {
  return { id: job.get("device").string(), ioStatus: job.get("io-status").string() };
}

function readJob(job: JsonValue): QmpJob {
  return {
    id: job.get("id").string(),
    type: job.get("type").string(),
    status: job.get("status").string(),
    current: job.get("current-progress").count(),
    total: job.get("total-progress").count(),
    error: job.get("error").optional((error) => error.string()),
  };
}
