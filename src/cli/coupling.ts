import { join } from "node:path";
import type { ArgumentsCamelCase, CommandModule } from "yargs";
import { runCoupling } from "../daemons/coupling/main.ts";

const NO_LEDGER = "none";
const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;

interface CouplingArguments {
  readonly cluster: string;
  readonly state: string;
  readonly ledger: string | undefined;
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
  readonly run: string | undefined;
  readonly "log-level": (typeof LOG_LEVELS)[number];
}

const path = { type: "string", demandOption: true, requiresArg: true } as const;

/** `esplex coupling`: the service that owns the sequence numbers and says who owns what. */
export const couplingCommand: CommandModule<object, CouplingArguments> = {
  command: "coupling",
  describe: "Run the coupling service: sequence numbers, ownership, members",
  builder: (args) =>
    args
      .option("cluster", { ...path, describe: "the cluster file" })
      .option("state", {
        ...path,
        describe: "directory of the durable ceilings; made if missing, one service at a time",
      })
      .option("ledger", {
        type: "string",
        requiresArg: true,
        describe: `the file that every grant is recorded in [default: "ledger" in the state directory]; "${NO_LEDGER}": no record`,
      })
      .option("certificate", { ...path, describe: "this service's certificate (PEM)" })
      .option("key", { ...path, describe: "its private key (PEM, readable by its owner alone)" })
      .option("ca", { ...path, describe: "the cluster's CA (PEM)" })
      .option("run", { type: "string", requiresArg: true, describe: "directory of the control socket" })
      .option("log-level", { choices: LOG_LEVELS, default: "info" as const, describe: "least level that is logged" }),
  handler: async (args: ArgumentsCamelCase<CouplingArguments>) => {
    const { cluster, state, ledger, certificate, key, ca, run, logLevel } = args;
    await runCoupling({
      clusterFile: cluster,
      state,
      ledger: ledger === NO_LEDGER ? null : (ledger ?? join(state, "ledger")),
      credentials: { certificate, key, ca },
      run: run ?? null,
      logLevel,
    });
  },
};
