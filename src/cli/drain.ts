import type { ArgumentsCamelCase, Argv, CommandModule } from "yargs";
import { askDaemon, runOption, type RunArgument } from "./options.ts";

interface DrainArguments extends RunArgument {
  readonly target: string;
  readonly undo: boolean;
}

/** `esplex drain`: a target gets no new connections, so that it can be taken away when its last one has ended. */
export const drainCommand: CommandModule<object, DrainArguments> = {
  command: "drain <target>",
  describe: "Give a target no new connections; those that it has stay",
  builder: (args: Argv<object>): Argv<DrainArguments> =>
    args
      .positional("target", { type: "string", demandOption: true, describe: "its name" })
      .option("run", runOption("distributor"))
      .option("undo", { type: "boolean", default: false, describe: "give it new connections again" }),
  handler: async ({ target, undo, ...args }: ArgumentsCamelCase<DrainArguments>) => {
    await askDaemon(args, "drain", { target, isDraining: !undo });
    const what = undo ? "gets new connections again" : "gets no new connections from this distributor";
    process.stderr.write(`${target} ${what}; \`esplex status\` shows those that it has\n`);
  },
};
