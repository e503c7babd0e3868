import { writeSync } from "node:fs";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { EsplexError, isError, messageOf } from "../core/errors.ts";
import { couplingCommand } from "./coupling.ts";
import { drainCommand } from "./drain.ts";
import { dropsCommand } from "./drops.ts";
import { ikeCommand } from "./ike.ts";
import { ledgerCommand } from "./ledger.ts";
import { nodeCommand } from "./node.ts";
import { pkiCommand } from "./pki.ts";
import { reloadCommand } from "./reload.ts";
import { statusCommand } from "./status.ts";

/** Exit status of a command used wrongly, or with a cluster file that is. */
const EXIT_WRONG_USE = 2;
const EXIT_FAILED = 1;

/** Says what went wrong on stderr and ends: 2 for wrong use, 1 for everything else. */
function fail(error: unknown): never {
  const hint = error instanceof EsplexError ? "" : "\n(run `esplex --help` for the commands)";
  try {
    writeSync(2, `esplex: ${messageOf(error)}${hint}\n`);
  } finally {
    // Also when stderr takes nothing: parts of a daemon that could not start would keep the process.
    process.exit(isError(error, "config.") ? EXIT_WRONG_USE : EXIT_FAILED);
  }
}

await yargs(hideBin(process.argv))
  .scriptName("esplex")
  .usage("$0 COMMAND\n\nOne virtual IP with IPsec in front of many Linux hosts.")
  .command(couplingCommand)
  .command(drainCommand)
  .command(dropsCommand)
  .command(ikeCommand)
  .command(ledgerCommand)
  .command(nodeCommand)
  .command(pkiCommand)
  .command(reloadCommand)
  .command(statusCommand)
  .demandCommand(1, "a command is missing")
  .strict()
  .version(false)
  .help()
  .fail((message: string | null, error: unknown, parser) => {
    if (error !== undefined && error !== null) fail(error);
    process.stderr.write(`esplex: ${message ?? "wrong use"}\n\n`);
    parser.showHelp("error");
    process.exit(EXIT_WRONG_USE);
  })
  .parseAsync();
