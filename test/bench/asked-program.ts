import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface, type Interface } from "node:readline";
import { processCpuUs } from "./programs.ts";

/** A program of ours that answers each line on its stdin with a line of JSON. Its first line says that it is ready. */
export class AskedProgram {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  private constructor(child: ChildProcess, reader: Interface) {
    this.#child = child;
    this.#reader = reader;
    this.#lines = reader[Symbol.asyncIterator]();
  }

  static async start(command: string, args: readonly string[]): Promise<AskedProgram> {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    const program = new AskedProgram(child, createInterface({ input: child.stdout }));
    const { done } = await program.#lines.next();
    if (done === true) throw new Error(`${args[0] ?? command} ended before it was ready`);
    return program;
  }

  /** Its answer, as it was sent. */
  async ask(line: string): Promise<unknown> {
    this.#child.stdin?.write(`${line}\n`);
    const answer = await this.#lines.next();
    if (answer.done === true) throw new Error("the program ended");
    return JSON.parse(answer.value);
  }

  async cpuUs(): Promise<number> {
    return processCpuUs(this.#child.pid ?? 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#reader.close();
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill("SIGKILL");
    await once(this.#child, "exit");
  }
}
