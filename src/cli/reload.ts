import type { ArgumentsCamelCase, CommandModule } from "yargs";
import { callControl } from "../daemons/control.ts";

interface ReloadArguments {
  readonly run: string;
}

/** `esplex reload`: a node reads its peers, keys, certificates and revocation lists anew. */
export const reloadCommand: CommandModule<object, ReloadArguments> = {
  command: "reload",
  describe: "Let a node read peers, keys, certificates and revocation lists anew; SAs stay",
  builder: (args) =>
    args.option("run", {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "the daemon's run directory (its --run)",
    }),
  handler: async ({ run }: ArgumentsCamelCase<ReloadArguments>) => {
    const result = await callControl(`${run}/control.sock`, "reload");
    process.stdout.write(`${JSON.stringify(result)}\n`);
  },
};
