import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { callControl, type ControlArguments } from "../src/daemons/control.ts";
import type { CouplingStatus } from "../src/daemons/coupling/status.ts";
import type { NodeStatus } from "../src/daemons/node/status.ts";
import type { LabNetwork } from "./network.ts";
import { Program, type ProgramEnd } from "./program.ts";
import { until } from "./until.ts";

/** Longest start of a daemon, ms: an emulated machine that starts six at once on a busy one takes minutes. Our choice. */
export const START_LIMIT_MS = 240_000;

/** The command line program of this checkout. */
const ESPLEX = fileURLToPath(new URL("../bin/esplex", import.meta.url));

/** Where a daemon of the lab runs and with what. */
export interface DaemonOptions {
  readonly network: LabNetwork;
  readonly node: string;
  /** `esplex` arguments: `["node", "--name", "t1", …]`, without `--run`. */
  readonly arguments: readonly string[];
  readonly runDirectory: string;
  readonly logFile: string;
}

/** One esplex daemon in a node of the lab, over its restarts. */
export class LabDaemon<Status extends NodeStatus | CouplingStatus> {
  readonly node: string;
  readonly runDirectory: string;
  readonly #options: DaemonOptions;
  #program: Program | undefined;

  constructor(options: DaemonOptions) {
    this.#options = options;
    this.node = options.node;
    this.runDirectory = options.runDirectory;
  }

  /** The process, running or ended. Fails before the first `start`. */
  get program(): Program {
    if (this.#program === undefined) throw new Error(`the daemon of ${this.node} was never started`);
    return this.#program;
  }

  /** Starts the process; `ready` waits for it. */
  async start(): Promise<void> {
    await mkdir(this.runDirectory, { recursive: true, mode: 0o700 });
    const { network, node, logFile } = this.#options;
    const command = [ESPLEX, ...this.#options.arguments, "--run", this.runDirectory];
    this.#program = Program.start({ network, node, label: `esplex of ${node}`, command, logFile });
  }

  /** Waits until the daemon says that it does its job, and returns what it says. */
  async ready(): Promise<Status> {
    return this.waitFor("is ready", START_LIMIT_MS, (status) => status.ready);
  }

  /** Waits until `holds` is true of the status, and returns that status. */
  async waitFor(what: string, limitMs: number, holds: (status: Status) => boolean): Promise<Status> {
    let last: Status | undefined;
    try {
      return await until(`${this.node} ${what}`, limitMs, async () => {
        await this.program.assertRunning();
        last = await this.status();
        return holds(last) && last;
      });
    } catch (error) {
      const said = last === undefined ? "nothing" : JSON.stringify(last);
      throw new Error(`${this.node}: not in time: ${what}. Its last status: ${said}`, { cause: error });
    }
  }

  /** What `esplex status --json` shows. Fails when the daemon does not answer. */
  async status(): Promise<Status> {
    return (await this.ask("status")) as Status;
  }

  /** Sends any control command. Fails when the daemon does not answer, or refuses. */
  async ask(command: string, args: ControlArguments = {}): Promise<unknown> {
    return callControl(`${this.runDirectory}/control.sock`, command, args);
  }

  /** Sends a signal and waits for the end of the process. */
  async stop(signal: "SIGTERM" | "SIGKILL"): Promise<ProgramEnd> {
    return this.program.stop(signal);
  }
}
