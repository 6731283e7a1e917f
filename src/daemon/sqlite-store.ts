/**
 * What a daemon remembers, in SQLite: one file, WAL, synchronous=FULL. A call returns after its transaction is on the disk, which is
 * a flush or two; so whoever has much to say of what changes often (progress) says it seldom.
 *
 * Ids of events are given here and ascend for ever: the last one is kept apart from the events (SQLite's AUTOINCREMENT), which
 * may all be forgotten.
 */
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import { StreamdiskError } from "../errors/index.ts";
import {
  type DeploymentRecord,
  type DiskRecord,
  type DomainRecord,
  ENDED_STATES,
  type EventQuery,
  type EventRecord,
  type ExportRecord,
  type JobQuery,
  type JobRecord,
  type SpeedLimitRecord,
  type Store,
} from "../jobs/index.ts";
import { type OpenDatabaseOptions, openDatabase } from "./open-database.ts";
import { fromRow, type Row, toRow } from "./row.ts";
import { inTransaction } from "./schema.ts";
import { damaged, isConflict, storeError } from "./sqlite-error.ts";
import type { StateDirectory } from "./state-directory.ts";
import type { StoreDamage } from "./store-damage.ts";

const ENDED = ENDED_STATES.map((state) => `'${state}'`).join(", ");

export class SqliteStore implements Store {
  /** What was done at the opening that its owner should know, as sentences. */
  readonly notes: readonly string[];
  /** What was damaged when it was opened, and is lost. */
  readonly damage: readonly StoreDamage[];
  /** Whether it was begun anew for one whose structure was damaged. */
  readonly rebuilt: boolean;
  readonly #db: DatabaseSync;
  readonly #path: string;
  readonly #statements = new Map<string, StatementSync>();
  #lastEvent: number;

  /**
   * Opens the store of a state directory, or makes it.
   *
   * @throws {StreamdiskError} `invalid-store`; `unsupported` for one of a newer version; `in-use`, `no-space`, `permission`, `io`
   */
  constructor(directory: StateDirectory, options: OpenDatabaseOptions = {}) {
    this.#path = directory.database;
    const { db, notes, damage, rebuilt } = openDatabase(this.#path, options);
    this.#db = db;
    this.notes = notes;
    this.damage = damage;
    this.rebuilt = rebuilt;
    const [last] = this.#rows<{ seq: number }>("SELECT seq FROM sqlite_sequence WHERE name = 'event'");
    const [greatest] = this.#rows<{ id: number | null }>("SELECT max(id) AS id FROM event");
    this.#lastEvent = Math.max(last?.seq ?? 0, greatest?.id ?? 0);
  }

  async disks(): Promise<DiskRecord[]> {
    return this.#records("SELECT id AS key, record, sum FROM disk ORDER BY name");
  }

  async putDisk(disk: DiskRecord): Promise<void> {
    const { record, sum } = toRow(disk.id, disk);
    this.#write(
      "INSERT INTO disk (id, record, sum) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record, sum = excluded.sum",
      [disk.id, record, sum],
      `There is another disk of the name '${disk.name}'`,
    );
  }

  async deleteDisk(id: string): Promise<void> {
    this.#write("DELETE FROM disk WHERE id = ?", [id]);
  }

  async exports(): Promise<ExportRecord[]> {
    return this.#records("SELECT name AS key, record, sum FROM export ORDER BY name");
  }

  async addExport(added: ExportRecord): Promise<void> {
    const { record, sum } = toRow(added.name, added);
    const taken = `There is another export of the name '${added.name}'`;
    this.#write("INSERT INTO export (name, record, sum) VALUES (?, ?, ?)", [added.name, record, sum], taken);
  }

  async putExport(changed: ExportRecord): Promise<void> {
    const { record, sum } = toRow(changed.name, changed);
    this.#write("UPDATE export SET record = ?, sum = ? WHERE name = ?", [record, sum, changed.name]);
  }

  async deleteExport(name: string): Promise<void> {
    this.#write("DELETE FROM export WHERE name = ?", [name]);
  }

  async domains(): Promise<DomainRecord[]> {
    return this.#records("SELECT name AS key, record, sum FROM domain ORDER BY name");
  }

  async addDomain(added: DomainRecord): Promise<void> {
    const { record, sum } = toRow(added.name, added);
    const taken = `There is another domain of the name '${added.name}'`;
    this.#write("INSERT INTO domain (name, record, sum) VALUES (?, ?, ?)", [added.name, record, sum], taken);
  }

  async putDomain(changed: DomainRecord): Promise<void> {
    const { record, sum } = toRow(changed.name, changed);
    this.#write("UPDATE domain SET record = ?, sum = ? WHERE name = ?", [record, sum, changed.name]);
  }

  async deleteDomain(name: string): Promise<void> {
    this.#write("DELETE FROM domain WHERE name = ?", [name]);
  }

  async deployments(): Promise<DeploymentRecord[]> {
    return this.#records("SELECT name AS key, record, sum FROM deployment ORDER BY name");
  }

  async putDeployment(deployment: DeploymentRecord): Promise<void> {
    const { record, sum } = toRow(deployment.name, deployment);
    this.#write(
      "INSERT INTO deployment (name, record, sum) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record, sum = excluded.sum",
      [deployment.name, record, sum],
    );
  }

  async deleteDeployment(name: string): Promise<void> {
    this.#write("DELETE FROM deployment WHERE name = ?", [name]);
  }

  async jobs({ disk, states, before, limit }: JobQuery): Promise<JobRecord[]> {
    const conditions: string[] = [];
    const values: SQLInputValue[] = [];
    if (before !== undefined) {
      const [job] = this.#rows<{ place: number }>("SELECT place FROM job WHERE id = ?", before);
      if (job === undefined) throw new StreamdiskError("not-found", `There is no job '${before}'`);
      conditions.push("place < ?");
      values.push(job.place);
    }
    if (disk !== undefined) {
      conditions.push("disk = ?");
      values.push(disk);
    }
    if (states !== undefined) {
      conditions.push("state IN (SELECT value FROM json_each(?))");
      values.push(JSON.stringify(states));
    }
    const where = conditions.length === 0 ? "" : `WHERE ${conditions.join(" AND ")}`;
    const query = `SELECT id AS key, record, sum FROM job ${where} ORDER BY place DESC LIMIT ?`;
    return this.#records(query, ...values, limit);
  }

  async lastJobs(disks: readonly string[]): Promise<JobRecord[]> {
    const query = `SELECT id AS key, record, sum FROM job WHERE place IN
      (SELECT max(place) FROM job WHERE disk IN (SELECT value FROM json_each(?)) GROUP BY disk)`;
    return this.#records(query, JSON.stringify(disks));
  }

  async job(id: string): Promise<JobRecord | undefined> {
    return this.#records<JobRecord>("SELECT id AS key, record, sum FROM job WHERE id = ?", id)[0];
  }

  async putJob(job: JobRecord): Promise<void> {
    this.#transaction(() => this.#putJob(job));
  }

  #putJob(job: JobRecord): void {
    const { record, sum } = toRow(job.id, job);
    this.#statement(
      "INSERT INTO job (id, record, sum) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record, sum = excluded.sum",
    ).run(job.id, record, sum);
  }

  async speedLimits(): Promise<SpeedLimitRecord[]> {
    return this.#records("SELECT place AS key, record, sum FROM speed_limit ORDER BY place");
  }

  async putSpeedLimit(limit: SpeedLimitRecord): Promise<void> {
    const { record, sum } = toRow(limit.place, limit);
    this.#write(
      "INSERT INTO speed_limit (place, record, sum) VALUES (?, ?, ?) ON CONFLICT (place) DO UPDATE SET record = excluded.record, sum = excluded.sum",
      [limit.place, record, sum],
    );
  }

  async deleteSpeedLimit(place: string): Promise<void> {
    this.#write("DELETE FROM speed_limit WHERE place = ?", [place]);
  }

  async addEvent(event: Omit<EventRecord, "id">, job?: JobRecord): Promise<EventRecord> {
    const id = this.#lastEvent + 1;
    const row = toRow(id, { ...event, id });
    this.#transaction(() => {
      if (job !== undefined) this.#putJob(job);
      this.#statement("INSERT INTO event (id, record, sum) VALUES (?, ?, ?)").run(id, row.record, row.sum);
    });
    this.#lastEvent = id;
    return this.#record(id, row);
  }

  async events({ after = 0, disk, limit }: EventQuery): Promise<EventRecord[]> {
    const query = (condition: string) =>
      `SELECT id AS key, record, sum FROM event WHERE id > ? ${condition} ORDER BY id LIMIT ?`;
    if (disk === undefined) return this.#records(query(""), after, limit);
    return this.#records(query("AND disk = ?"), after, disk, limit);
  }

  async lastEvent(): Promise<number> {
    this.#demandOpen();
    return this.#lastEvent;
  }

  async prune(keep: { readonly events: number; readonly jobs: number }): Promise<void> {
    this.#transaction(() => {
      this.#statement("DELETE FROM event WHERE id <= (SELECT id FROM event ORDER BY id DESC LIMIT 1 OFFSET ?)").run(
        keep.events,
      );
      this.#statement(
        `DELETE FROM job WHERE state IN (${ENDED}) AND place <=
           (SELECT place FROM job WHERE state IN (${ENDED}) ORDER BY place DESC LIMIT 1 OFFSET ?)`,
      ).run(keep.jobs);
    });
  }

  async close(): Promise<void> {
    if (!this.#db.isOpen) return;
    this.#statements.clear();
    this.#db.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #records<T>(query: string, ...values: SQLInputValue[]): T[] {
    return this.#rows<Row & { key: string | number }>(query, ...values).map((row) => this.#record(row.key, row));
  }

  #record<T>(key: string | number, row: Row): T {
    const record = fromRow<T>(key, row);
    if (record === undefined) throw damaged(this.#path, `the record '${key}' is not as it was written`);
    return record;
  }

  #rows<T>(query: string, ...values: SQLInputValue[]): T[] {
    this.#demandOpen();
    try {
      return this.#statement(query).all(...values) as T[];
    } catch (error) {
      throw storeError(error, this.#path, "read");
    }
  }

  /** @param conflict what is wrong when another record has what this one wants */
  #write(statement: string, values: readonly SQLInputValue[], conflict?: string): void {
    this.#demandOpen();
    try {
      this.#statement(statement).run(...values);
    } catch (error) {
      if (conflict !== undefined && isConflict(error)) throw new StreamdiskError("exists", conflict, {}, error);
      throw storeError(error, this.#path, "write to");
    }
  }

  #transaction(act: () => void): void {
    this.#demandOpen();
    try {
      inTransaction(this.#db, act);
    } catch (error) {
      throw storeError(error, this.#path, "write to");
    }
  }

  #statement(text: string): StatementSync {
    let statement = this.#statements.get(text);
    if (statement === undefined) {
      statement = this.#db.prepare(text);
      this.#statements.set(text, statement);
    }
    return statement;
  }

  #demandOpen(): void {
    if (!this.#db.isOpen) throw new StreamdiskError("shutdown", "The store is closed", { node: this.#path });
  }
}
