import { execa } from "execa";
import { join } from "node:path";
import { Program } from "./program.ts";
import type { Handlers } from "./serve.ts";
import { Worker } from "./worker.ts";

const ROOT = join(import.meta.dirname, "../../..");
/** Node 24 of the repository: the system's may be too old to run TypeScript. */
const NODE = join(ROOT, "node_modules/.bin/node");
const COMMAND_TIMEOUT_MS = 60_000;
const ENVIRONMENT = { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` };

/** What a command left. */
export interface Output {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/**
 * A network namespace of one test. Node cannot enter it, so programs are started inside. Its name carries the pid;
 * `await using` kills what `spawn` and `worker` started and deletes it.
 */
export class Namespace implements AsyncDisposable {
  readonly name: string;
  readonly #started: Program[] = [];

  private constructor(name: string) {
    this.name = name;
  }

  /** With its loopback interface up. */
  static async create(name: string): Promise<Namespace> {
    const namespace = new Namespace(`esplex-${process.pid}-${name}`);
    await run("ip", ["netns", "add", namespace.name]);
    await namespace.exec("ip", ["link", "set", "lo", "up"]);
    return namespace;
  }

  /** Runs a program and returns its stdout; throws when it fails. */
  async exec(command: string, args: readonly string[], input = ""): Promise<string> {
    const { stdout } = await run("ip", ["netns", "exec", this.name, command, ...args], input);
    return stdout;
  }

  /** Runs a program that may fail. */
  async try(command: string, args: readonly string[], input = ""): Promise<Output> {
    const options = { reject: false, timeout: COMMAND_TIMEOUT_MS, input, env: ENVIRONMENT } as const;
    const { stdout, stderr, exitCode } = await execa("ip", ["netns", "exec", this.name, command, ...args], options);
    return { stdout, stderr, exitCode: exitCode ?? -1 };
  }

  /** `ip ARGS…`, words separated by blanks. */
  async ip(args: string): Promise<string> {
    return this.exec("ip", args.split(" "));
  }

  async sysctl(path: string, value: string): Promise<void> {
    await this.exec("tee", [`/proc/sys/${path}`], value);
  }

  /** Starts a program that lives until the namespace is disposed of. */
  spawn(command: string, args: readonly string[]): Program {
    const env = { ...process.env, ...ENVIRONMENT };
    const program = new Program("ip", ["netns", "exec", this.name, command, ...args], env);
    this.#started.push(program);
    return program;
  }

  /** Starts a TypeScript file of the repository. */
  node(script: string, args: readonly string[] = []): Program {
    return this.spawn(NODE, [join(ROOT, script), ...args]);
  }

  /** Starts a worker (`serve.ts`) and waits until it takes calls. */
  async worker<H extends Handlers>(script: string): Promise<Worker<H>> {
    const worker = new Worker<H>(this.node(script));
    await worker.ready();
    return worker;
  }

  /** `/proc/net/xfrm_stat`: why packets were dropped; zeros left out. */
  async xfrmStat(): Promise<Record<string, number>> {
    const lines = (await this.exec("cat", ["/proc/net/xfrm_stat"])).split("\n");
    const counters = lines.map((line): [string, number] => {
      const [name = "", count = "0"] = line.split(/\s+/);
      return [name, Number(count)];
    });
    return Object.fromEntries(counters.filter(([, count]) => count !== 0));
  }

  /** What a failed test wants to see: states without keys, policies, drop counters. */
  async report(): Promise<string> {
    const { stdout: states } = await this.try("ip", ["-s", "xfrm", "state", "list", "nokeys"]);
    const { stdout: policies } = await this.try("ip", ["xfrm", "policy"]);
    return [`== ${this.name}`, states, policies, JSON.stringify(await this.xfrmStat())].join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of this.#started) program.kill("SIGKILL");
    await Promise.all(this.#started.map((program) => program.ended));
    await run("ip", ["netns", "delete", this.name]);
  }
}

/** Joins two namespaces by an Ethernet cable; addresses as `10.0.0.1/24`. IPv6 duplicate detection is off. */
export async function veth(
  a: { readonly namespace: Namespace; readonly name: string; readonly addresses: readonly string[] },
  b: { readonly namespace: Namespace; readonly name: string; readonly addresses: readonly string[] },
): Promise<void> {
  const peer = ["type", "veth", "peer", "name", b.name, "netns", b.namespace.name];
  await run("ip", ["link", "add", a.name, "netns", a.namespace.name, ...peer]);
  for (const { namespace, name, addresses } of [a, b]) {
    for (const address of addresses) {
      const noDad = address.includes(":") ? " nodad" : "";
      await namespace.ip(`address add ${address} dev ${name}${noDad}`);
    }
    await namespace.ip(`link set ${name} up`);
  }
}

async function run(command: string, args: readonly string[], input = ""): Promise<{ stdout: string }> {
  const { stdout } = await execa(command, args, { timeout: COMMAND_TIMEOUT_MS, input, env: ENVIRONMENT });
  return { stdout };
}
