import type { Argv, ArgumentsCamelCase, CommandModule } from "yargs";
import { EsplexError } from "../core/errors.ts";
import type { IkeStatus } from "../daemons/node/ike-controls.ts";
import { askDaemon, jsonOption, runOption, type RunArgument } from "./options.ts";
import { formatTable } from "./table.ts";

interface ListArguments extends RunArgument {
  readonly json: boolean;
}

interface RekeyArguments extends RunArgument {
  readonly sa: string | undefined;
  readonly ike: string | undefined;
}

interface InitiateArguments extends RunArgument {
  readonly peer: string;
  readonly dvipa: string | undefined;
}

const listCommand: CommandModule<object, ListArguments> = {
  command: "list",
  describe: "Show the IKE SAs and what hangs on them",
  builder: (args: Argv<object>): Argv<ListArguments> =>
    args.option("run", runOption("distributor")).option("json", jsonOption("tables")),
  handler: async (args: ArgumentsCamelCase<ListArguments>) => {
    const sas = (await askDaemon(args, "ikeSas")) as IkeStatus;
    process.stdout.write(args.json ? `${JSON.stringify(sas)}\n` : describeSas(sas));
  },
};

const rekeyCommand: CommandModule<object, RekeyArguments> = {
  command: "rekey",
  describe: "Replace an SA by a fresh one, without losing a packet",
  builder: (args: Argv<object>): Argv<RekeyArguments> =>
    args
      .option("run", runOption("distributor"))
      .option("sa", { type: "string", requiresArg: true, describe: "a Child SA: its ID, as `list` shows it" })
      .option("ike", { type: "string", requiresArg: true, describe: "an IKE SA: its ID; its Child SAs stay" })
      .conflicts("sa", "ike")
      .check(({ sa, ike }) => {
        if (sa === undefined && ike === undefined) throw new EsplexError("config.invalid", "say which: --sa or --ike");
        return true;
      }),
  handler: async ({ sa, ike, ...args }: ArgumentsCamelCase<RekeyArguments>) => {
    if (sa === undefined) await askDaemon(args, "rekeyIke", { ike });
    else await askDaemon(args, "rekeyChild", { sa });
    ordered();
  },
};

const initiateCommand: CommandModule<object, InitiateArguments> = {
  command: "initiate",
  describe: "Reach out to a peer of the cluster file, unless it is there already",
  builder: (args: Argv<object>): Argv<InitiateArguments> =>
    args
      .option("run", runOption("distributor"))
      .option("peer", {
        type: "string",
        demandOption: true,
        requiresArg: true,
        describe: "its name in the cluster file",
      })
      .option("dvipa", { type: "string", requiresArg: true, describe: "as this DVIPA [what the cluster file says]" }),
  handler: async ({ peer, dvipa, ...args }: ArgumentsCamelCase<InitiateArguments>) => {
    await askDaemon(args, "initiate", { peer, ...(dvipa !== undefined && { dvipa }) });
    ordered();
  },
};

function ordered(): void {
  process.stderr.write("ordered; `esplex ike list` shows what comes of it\n");
}

/** `esplex ike`: what a distributor has agreed on with its peers. */
export const ikeCommand: CommandModule = {
  command: "ike",
  describe: "See and steer the IKE of a distributor",
  builder: (args) =>
    args.command(listCommand).command(rekeyCommand).command(initiateCommand).demandCommand(1, "say what to do"),
  handler: () => {},
};

/** `used/limit`; `-` for what is not limited. */
function ofLimit(used: string | null | undefined, limit: string | null): string {
  return limit === null ? "-" : `${used ?? "0"}/${limit}`;
}

function describeSas(sas: IkeStatus): string {
  return [
    formatTable(
      "IKE SAs",
      ["ID", "peer", "address", "state", "suite", "Child SAs"],
      sas.map((sa) => [
        sa.id,
        sa.peerName ?? "-",
        sa.remote.address,
        sa.state,
        `${sa.suite}/${sa.group}`,
        String(sa.children.length),
      ]),
    ),
    formatTable(
      "Child SAs",
      ["ID", "peer", "mode", "suite", "state", "bytes", "packets"],
      sas.flatMap((sa) =>
        sa.children.map((c) => [
          ...[c.saId, sa.peerName ?? "-", c.mode, c.suite, c.state],
          ofLimit(c.used?.bytes, c.limits.bytes),
          ofLimit(c.used?.packets, c.limits.packets),
        ]),
      ),
    ),
  ].join("\n");
}
