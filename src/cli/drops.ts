import type { ArgumentsCamelCase, CommandModule } from "yargs";
import { callControl } from "../daemons/control.ts";
import type { Drop } from "../daemons/node/drops.ts";

interface DropsArguments {
  readonly run: string;
  readonly json: boolean;
}

/** `esplex drops`: what a node on this machine has dropped, and why. */
export const dropsCommand: CommandModule<object, DropsArguments> = {
  command: "drops",
  describe: "Explain what a node on this machine has dropped, its kernel included",
  builder: (args) =>
    args
      .option("run", {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "the node's run directory (its --run)",
      })
      .option("json", { type: "boolean", default: false, describe: "one line of JSON instead of text" }),
  handler: async ({ run, json }: ArgumentsCamelCase<DropsArguments>) => {
    const drops = (await callControl(`${run}/control.sock`, "drops")) as readonly Drop[];
    process.stdout.write(json ? `${JSON.stringify(drops)}\n` : describeDrops(drops));
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
