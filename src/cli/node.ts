import type { ArgumentsCamelCase, CommandModule } from "yargs";
import type { LogLevel } from "../core/log.ts";
import { runNode } from "../daemons/node/node.ts";

interface NodeArguments {
  readonly name: string;
  readonly cluster: string;
  readonly certificate: string;
  readonly key: string;
  readonly ca: string;
  readonly run: string | undefined;
  readonly "log-level": LogLevel;
}

/** `esplex node`: the daemon of one host; its roles follow from the cluster file and from what distributors tell it. */
export const nodeCommand: CommandModule<object, NodeArguments> = {
  command: "node",
  describe: "Run the node daemon of this host (as root, in the foreground)",
  builder: (args) =>
    args
      .option("name", { type: "string", demandOption: true, requiresArg: true, describe: "this node's name" })
      .option("cluster", { type: "string", demandOption: true, requiresArg: true, describe: "the cluster file" })
      .option("certificate", {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "its certificate (PEM)",
      })
      .option("key", {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "its private key (PEM, mode 600)",
      })
      .option("ca", { type: "string", demandOption: true, requiresArg: true, describe: "the cluster's CA (PEM)" })
      .option("run", { type: "string", requiresArg: true, describe: "run directory [/run/esplex/NAME]" })
      .option("log-level", { choices: ["debug", "info", "warn", "error"] as const, default: "info" as const }),
  handler: async ({ name, cluster, certificate, key, ca, run, logLevel }: ArgumentsCamelCase<NodeArguments>) => {
    const directory = run ?? `/run/esplex/${name}`;
    await runNode({ name, clusterFile: cluster, certificate, key, ca, run: directory, logLevel });
  },
};
