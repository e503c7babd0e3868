import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { LabNetwork } from "./network.ts";
import { until } from "./until.ts";

const STOP_LIMIT_MS = 30_000;

/** How a program ended: its exit status, or the signal that killed it. */
export interface ProgramEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** What to start, where. */
export interface ProgramOptions {
  readonly network: LabNetwork;
  readonly node: string;
  /** For messages: `node t1`, `charon`. */
  readonly label: string;
  readonly command: readonly string[];
  /** Gets stdout and stderr, appended. */
  readonly logFile: string;
  readonly environment?: Readonly<Record<string, string>>;
}

/**
 * A program that runs inside a node until it is stopped. It is detached: it outlives the process that started it
 * (`lab.sh up`) until `LabNetwork.destroy`, which finds it by its namespace.
 */
export class Program {
  readonly pid: number;
  readonly label: string;
  readonly logFile: string;
  readonly #ended: Promise<ProgramEnd>;
  #end: ProgramEnd | undefined;

  private constructor(pid: number, options: ProgramOptions, ended: Promise<ProgramEnd>) {
    this.pid = pid;
    this.label = options.label;
    this.logFile = options.logFile;
    this.#ended = ended;
    void ended.then((end) => (this.#end = end));
  }

  /** Starts the program. It may still fail by itself: whoever waits for its readiness calls `assertRunning`. */
  static start(options: ProgramOptions): Program {
    const [file, ...args] = options.network.inside(options.node, options.command);
    const log = openSync(options.logFile, "a", 0o600);
    try {
      const child = spawn(file, args, {
        stdio: ["ignore", log, log],
        detached: true,
        env: { ...process.env, ...options.environment },
      });
      child.unref();
      if (child.pid === undefined) throw new Error(`${options.label}: cannot start ${file}`);
      const ended = once(child, "exit").then(([exitCode, signal]): ProgramEnd => {
        return { exitCode: exitCode as number | null, signal: signal as NodeJS.Signals | null };
      });
      return new Program(child.pid, options, ended);
    } finally {
      closeSync(log);
    }
  }

  /** How it ended, or `undefined` while it runs. */
  get end(): ProgramEnd | undefined {
    return this.#end;
  }

  /** Fails, with the end of its log, when the program is no longer there. */
  async assertRunning(): Promise<void> {
    if (this.#end === undefined) return;
    const how = this.#end.signal ?? `exit status ${this.#end.exitCode ?? "?"}`;
    throw new Error(`${this.label} ended by itself (${how}); its last lines:\n${await this.logTail()}`);
  }

  /** Sends a signal and waits for the end. A program that has ended already keeps its end. */
  async stop(signal: NodeJS.Signals): Promise<ProgramEnd> {
    if (this.#end !== undefined) return this.#end;
    process.kill(this.pid, signal);
    return until(`${this.label} ends after ${signal}`, STOP_LIMIT_MS, () => this.#end);
  }

  /** Resolves when it has ended. */
  async ended(): Promise<ProgramEnd> {
    return this.#ended;
  }

  /** The last lines of its log. */
  async logTail(lines = 30): Promise<string> {
    const text = await readFile(this.logFile, "utf8").catch(() => "(no log)");
    return text.trimEnd().split("\n").slice(-lines).join("\n");
  }
}
