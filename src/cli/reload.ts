import type { ArgumentsCamelCase, CommandModule } from "yargs";
import { askDaemon, runOption, type RunArgument } from "./options.ts";

/** `esplex reload`: a node reads its peers, keys, certificates and revocation lists anew. */
export const reloadCommand: CommandModule<object, RunArgument> = {
  command: "reload",
  describe: "Let a node read peers, keys, certificates and revocation lists anew; SAs stay",
  builder: (args) => args.option("run", runOption("node")),
  handler: async (args: ArgumentsCamelCase<RunArgument>) => {
    const result = await askDaemon(args, "reload");
    process.stdout.write(`${JSON.stringify(result)}\n`);
  },
};
