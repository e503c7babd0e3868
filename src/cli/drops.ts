import type { ArgumentsCamelCase, CommandModule } from "yargs";
import type { Drop } from "../daemons/node/drops.ts";
import { askDaemon, jsonOption, runOption, type RunArgument } from "./options.ts";

interface DropsArguments extends RunArgument {
  readonly json: boolean;
}

/** `esplex drops`: what a node on this machine has dropped, and why. */
export const dropsCommand: CommandModule<object, DropsArguments> = {
  command: "drops",
  describe: "Explain what a node on this machine has dropped, its kernel included",
  builder: (args) => args.option("run", runOption("node")).option("json", jsonOption("text")),
  handler: async (args: ArgumentsCamelCase<DropsArguments>) => {
    const drops = (await askDaemon(args, "drops")) as readonly Drop[];
    process.stdout.write(args.json ? `${JSON.stringify(drops)}\n` : describeDrops(drops));
  },
};

function describeDrops(drops: readonly Drop[]): string {
  if (drops.length === 0) return "nothing was dropped\n";
  const width = Math.max(...drops.map(({ packets }) => String(packets).length));
  const indent = " ".repeat(width + 2);
  return drops
    .map(
      ({ counter, packets, why, advice }) =>
        `${String(packets).padStart(width)}  ${counter}\n${indent}${why}\n${indent}→ ${advice}\n`,
    )
    .join("\n");
}
