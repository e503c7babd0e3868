import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";

/** The only address the programs of a benchmark listen on. */
export const LOOPBACK = "127.0.0.1";

/** How long a program may take to say that it is ready, in milliseconds. */
const START_MS = 20_000;
/** One tick of `/proc/PID/stat`, in microseconds: `USER_HZ` is 100 on all architectures that Node runs on. */
const TICK_US = 10_000;

/** A program that a benchmark started. */
export class Program {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  /** Starts it and waits until its output contains `ready`. Rejects with its output when it ends before. */
  static async start(command: string, args: readonly string[], ready: string): Promise<Program> {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    await new Promise<void>((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`${command} is not ready: ${output}`)), START_MS);
      const read = (text: string): void => {
        output = (output + text).slice(-10_000);
        if (output.includes(ready)) resolve();
      };
      child.stdout.setEncoding("utf8").on("data", read);
      child.stderr.setEncoding("utf8").on("data", read);
      child.once("error", reject);
      child.once("exit", (status) => reject(new Error(`${command} ended with status ${status}: ${output}`)));
      child.once("close", () => clearTimeout(limit));
      limit.unref();
    }).catch((error: unknown) => {
      child.kill("SIGKILL");
      throw error;
    });
    return new Program(child);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Processor time it has used, in microseconds. */
  async cpuUs(): Promise<number> {
    return processCpuUs(this.#child.pid ?? 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill("SIGKILL");
    await once(this.#child, "exit");
  }
}

/**
 * Processor time that a process has used, in microseconds: what the scheduler measured (`schedstat`, of the threads that it has now),
 * or, on a kernel without that (User-mode Linux), in ticks, which are charged to whoever runs when one ends.
 */
export async function processCpuUs(pid: number): Promise<number> {
  try {
    const threads = await readdir(`/proc/${pid}/task`);
    const times = await Promise.all(
      threads.map((thread) => readFile(`/proc/${pid}/task/${thread}/schedstat`, "latin1")),
    );
    return times.reduce((sum, text) => sum + Number(text.split(" ", 1)[0]) / 1000, 0);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    return cpuTicksUs(pid);
  }
}

async function cpuTicksUs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "latin1");
  // proc(5): utime and stime are fields 14 and 15; the name in brackets may hold blanks.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

/** Memory that a process has resident, in KiB. */
export async function processRssKb(pid: number): Promise<number> {
  const [, resident] = /^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, "latin1")) ?? [];
  if (resident === undefined) throw new Error(`process ${pid} has ended`);
  return Number(resident);
}

/** A TCP port on loopback that nobody uses. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, LOOPBACK);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
