import type { ArgumentsCamelCase, Argv, CommandModule } from "yargs";
import { callControl } from "../daemons/control.ts";

interface DrainArguments {
  readonly target: string;
  readonly run: string;
  readonly undo: boolean;
}

/** `esplex drain`: a target gets no new connections, so that it can be taken away when its last one has ended. */
export const drainCommand: CommandModule<object, DrainArguments> = {
  command: "drain <target>",
  describe: "Give a target no new connections; those that it has stay",
  builder: (args: Argv<object>): Argv<DrainArguments> =>
    args
      .positional("target", { type: "string", demandOption: true, describe: "its name" })
      .option("run", {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "the distributor's run directory (its --run)",
      })
      .option("undo", { type: "boolean", default: false, describe: "give it new connections again" }),
  handler: async ({ target, run, undo }: ArgumentsCamelCase<DrainArguments>) => {
    await callControl(`${run}/control.sock`, "drain", { target, isDraining: !undo });
    const what = undo ? "gets new connections again" : "gets no new connections from this distributor";
    process.stderr.write(`${target} ${what}; \`esplex status\` shows those that it has\n`);
  },
};
