import { type CredentialFiles, loadCredentials } from "../../bus/credentials.ts";
import { type BusServer, listenBus } from "../../bus/server.ts";
import { readClusterFile } from "../../config/cluster-file.ts";
import { systemClock } from "../../core/clock.ts";
import { Counters } from "../../core/counters.ts";
import { type Log, type LogLevel, createLog } from "../../core/log.ts";
import { JournalCeilingStore } from "../../sequence/journal-ceiling-store.ts";
import { type ControlServer, serveControl } from "../control.ts";
import { type Part, runUntilSignal } from "../parts.ts";
import { LedgerFile } from "./ledger-file.ts";
import { CouplingService } from "./service.ts";

export interface CouplingOptions {
  readonly clusterFile: string;
  /** Directory of the ceilings; one service at a time. */
  readonly state: string;
  /** File of the ledger; null for none. */
  readonly ledger: string | null;
  readonly credentials: CredentialFiles;
  /** Directory of the control socket; null for none. */
  readonly run: string | null;
  readonly logLevel: LogLevel;
}

/** Runs the coupling service until SIGTERM. Rejects with `config.*` or `store.*` when it cannot start. */
export async function runCoupling(options: CouplingOptions): Promise<void> {
  const counters = new Counters();
  const log = createLog("coupling", "coupling", options.logLevel, counters);
  await runUntilSignal(couplingParts(options, counters, log), log);
}

function couplingParts(options: CouplingOptions, counters: Counters, log: Log): Part[] {
  let store: JournalCeilingStore;
  let ledger: LedgerFile | null = null;
  let service: CouplingService;
  let server: BusServer;
  let control: ControlServer | null = null;
  return [
    {
      name: "store",
      start: async () => void (store = await JournalCeilingStore.open(options.state)),
      stop: () => store.close(),
    },
    {
      name: "ledger",
      start: async () => {
        if (options.ledger !== null) ledger = await LedgerFile.open(options.ledger, counters, log);
      },
      stop: async () => ledger?.close(),
    },
    {
      name: "bus",
      start: async () => {
        const config = await readClusterFile(options.clusterFile);
        service = new CouplingService({ config, store, clock: systemClock, counters, log, ledger });
        server = await listenBus({
          ...config.bus.coupling,
          cluster: config.cluster,
          self: "coupling",
          credentials: await loadCredentials(options.credentials),
          clock: systemClock,
          counters,
          log,
          accept: (connection) => service.accept(connection),
        });
      },
      stop: async () => {
        service.close();
        await server.close();
      },
    },
    {
      name: "control",
      start: async () => {
        if (options.run === null) return;
        control = await serveControl(`${options.run}/control.sock`, { status: () => service.status() }, log);
      },
      stop: async () => control?.close(),
    },
  ];
}
