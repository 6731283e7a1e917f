/** Images that are open, or not at the moment, as the API shows them. */
import type { NbdClient, NbdExportView } from "../api/index.ts";
import type { HostedImage } from "./disk-host.ts";
import type { HeldExport } from "./exports.ts";
import { exportView } from "./views.ts";

/** One that is not open has none. */
export async function clientsOf({ served }: HostedImage): Promise<{ clients: NbdClient[] }> {
  return { clients: [...((await served?.clients()) ?? [])] };
}

export async function exportNow({ record, host }: HeldExport): Promise<NbdExportView> {
  const info = await host.served?.info().catch(() => undefined);
  return exportView(record, { info, error: host.error });
}
