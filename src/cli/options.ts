import { callControl, type ControlArguments } from "../daemons/control.ts";

/** Every command that talks to a daemon on this machine has it. */
export interface RunArgument {
  readonly run: string;
}

/** `--run`: whose run directory it is. */
export function runOption(whose: "daemon" | "node" | "distributor"): {
  readonly type: "string";
  readonly demandOption: true;
  readonly requiresArg: true;
  readonly describe: string;
} {
  return {
    type: "string",
    demandOption: true,
    requiresArg: true,
    describe: `the ${whose}'s run directory (its --run)`,
  };
}

/** `--json`: what there is instead. */
export function jsonOption(instead: "text" | "tables"): {
  readonly type: "boolean";
  readonly default: false;
  readonly describe: string;
} {
  return { type: "boolean", default: false, describe: `one line of JSON instead of ${instead}` };
}

/** Asks the daemon of a run directory. Throws its error, or `cluster.notServing` when none answers. */
export function askDaemon({ run }: RunArgument, command: string, argument?: ControlArguments): Promise<unknown> {
  return callControl(`${run}/control.sock`, command, argument);
}
