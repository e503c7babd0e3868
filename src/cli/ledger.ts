import type { Argv, ArgumentsCamelCase, CommandModule } from "yargs";
import { type LedgerCheck, checkLedger } from "../daemons/ledger-check.ts";

const EXIT_VIOLATED = 1;

interface VerifyArguments {
  readonly ledger: readonly string[];
  readonly pcap: readonly string[];
  readonly "same-packets": boolean;
  readonly json: boolean;
}

const files = { type: "string", array: true, requiresArg: true } as const;

const verifyCommand: CommandModule<object, VerifyArguments> = {
  command: "verify",
  describe: "Prove from ledger and captures that no number and no IV was used twice",
  builder: (args: Argv<object>): Argv<VerifyArguments> =>
    args
      .option("ledger", {
        ...files,
        demandOption: true,
        describe: "the coupling service's ledger; several: oldest first",
      })
      .option("pcap", { ...files, default: [] as string[], describe: "a capture of the SAs' packets" })
      .option("same-packets", {
        type: "boolean",
        default: false,
        describe: "the captures may hold the same packet more than once: equal bytes count once",
      })
      .option("json", { type: "boolean", default: false, describe: "one line of JSON alone" }),
  handler: async ({ ledger, pcap, samePackets, json }: ArgumentsCamelCase<VerifyArguments>) => {
    const check = await checkLedger({ ledgers: ledger, captures: pcap, samePackets });
    if (!json) process.stdout.write(describeCheck(check, pcap.length));
    process.stdout.write(`${JSON.stringify(check, (_key, value: unknown) => plain(value))}\n`);
    if (!check.proven) process.exitCode = EXIT_VIOLATED;
  },
};

/** `esplex ledger`: what was granted and given up. */
export const ledgerCommand: CommandModule = {
  command: "ledger",
  describe: "Check the record of all sequence numbers",
  builder: (args) => args.command(verifyCommand).demandCommand(1, "say what to do with the ledger"),
  handler: () => {},
};

/** Counts of numbers are JSON numbers where these are exact, decimal text above. */
function plain(value: unknown): unknown {
  if (typeof value !== "bigint") return value;
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString();
}

function describeCheck(check: LedgerCheck, captures: number): string {
  const burnt = Object.entries(check.burnt).map(([reason, numbers]) => `  ${reason}: ${numbers}\n`);
  const lines = [
    `${check.grants} grants on ${check.sas} SAs: ${check.granted} numbers\n`,
    captures > 0
      ? `${check.packets} packets in ${captures} captures used ${check.used} of them\n`
      : "no capture given\n",
    check.samePackets > 0 ? `${check.samePackets} packets were captured more than once\n` : "",
    `${check.outstanding} are held, or were sent where no capture looked\n`,
    `burnt:${burnt.length === 0 ? " nothing" : ""}\n`,
    ...burnt,
    check.unrecorded > 0 ? `${check.unrecorded} packets have numbers of which a killed process left no record\n` : "",
    check.tornBytes > 0 ? `${check.tornBytes} bytes at the end are a block that was not finished\n` : "",
    check.cutPackets > 0
      ? `${check.cutPackets} ESP or AH packets were not captured as far as their number: no proof\n`
      : "",
    ...check.named.map((breach) => `BREACH ${breach}\n`),
    check.proven ? "proved: no number and no IV twice\n" : "NOT PROVED\n",
  ];
  return lines.join("");
}
