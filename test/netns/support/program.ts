import { spawn, type ChildProcessByStdio } from "node:child_process";
import type { Readable, Writable } from "node:stream";

const KEPT_BYTES = 1024 * 1024;

/** A running program: its output so far (the last megabyte of each stream), its input, its end. */
export class Program {
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #kept = { stdout: "", stderr: "" };
  /** Exit code, or the signal's name. */
  readonly ended: Promise<number | string>;

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"], env });
    this.#child.stdin.on("error", () => {}); // it may end before it has read everything
    for (const stream of ["stdout", "stderr"] as const) {
      this.#child[stream].setEncoding("utf8").on("data", (text: string) => {
        this.#kept[stream] = (this.#kept[stream] + text).slice(-KEPT_BYTES);
      });
    }
    this.ended = new Promise((resolve) => {
      this.#child.on("close", (code, signal) => resolve(code ?? signal ?? -1));
      this.#child.on("error", (error) => resolve(error.message));
    });
  }

  get stdout(): string {
    return this.#kept.stdout;
  }

  get stderr(): string {
    return this.#kept.stderr;
  }

  /** For reading lines while it runs. */
  get output(): Readable {
    return this.#child.stdout;
  }

  write(text: string): void {
    this.#child.stdin.write(text);
  }

  /** No more input. */
  finish(): void {
    this.#child.stdin.end();
  }

  kill(signal: NodeJS.Signals = "SIGTERM"): void {
    this.#child.kill(signal);
  }
}
