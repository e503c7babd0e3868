import { stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { runCommand } from "../../netns/command.ts";
import type { Lab } from "../../netns/lab.ts";
import type { ChildName, StrongSwan } from "../../netns/strongswan.ts";
import { until } from "../../netns/until.ts";
import type { SeededRandom } from "./random.ts";

/** What is done to the cluster, each with the node that it is done to. */
export type FaultKind = "killCoupling" | "killTarget" | "killDistributor" | "failedWrite" | "cutLink";

/** One fault as it is drawn: all randomness is in it. */
export interface Fault {
  readonly kind: FaultKind;
  readonly node: string;
  /** How long it stays broken, ms. */
  readonly brokenMs: number;
  /** The mode in which the client comes back after the distributor's death. */
  readonly mode: ChildName;
}

const LEAST_BROKEN_MS = 100;
const LONGEST_BROKEN_MS = 4_000;
/** Longest time until all daemons do their job again, ms: six of them start at once on a slow emulated machine. */
const RECOVERY_LIMIT_MS = 90_000;
/** The next write fails; a rekey of the client makes one. */
const WRITE_LIMIT_MS = 30_000;
const REKEY_PAUSE_MS = 500;

/** Every fault once, in random order: a deck to draw from. */
export function shuffledFaults(random: SeededRandom, targets: readonly string[]): Fault[] {
  const all: (readonly [FaultKind, string])[] = [
    ["killCoupling", "cf"],
    ["failedWrite", "cf"],
    ["killDistributor", "d1"],
    ...targets.map((node) => ["killTarget", node] as const),
    ...["cf", "d1", ...targets].map((node) => ["cutLink", node] as const),
  ];
  return random.shuffled(all).map(([kind, node]) => {
    const mode = random.next() < 0.5 ? "transport" : "tunnel";
    return { kind, node, mode, brokenMs: random.between(LEAST_BROKEN_MS, LONGEST_BROKEN_MS) };
  });
}

/** Does faults to a lab and mends them. */
export class Injector {
  readonly done: Fault[] = [];
  /** SIGKILLs sent. */
  kills = 0;
  readonly #lab: Lab;
  readonly #client: StrongSwan;
  #mode: ChildName = "transport";

  constructor(lab: Lab, client: StrongSwan) {
    this.#lab = lab;
    this.#client = client;
  }

  /** Does the faults, all at once, and waits until the whole cluster and the client are well again. */
  async run(faults: readonly Fault[]): Promise<void> {
    await Promise.all(faults.map((fault) => this.#one(fault)));
    this.done.push(...faults);
    await this.#recovered();
    const distributorDied = faults.find(({ kind }) => kind === "killDistributor");
    if (distributorDied !== undefined) await this.negotiate(distributorDied.mode);
  }

  /** The client drops what it has and negotiates anew: a distributor that died has forgotten its SAs. */
  async negotiate(mode: ChildName): Promise<void> {
    await this.#client.swanctl(["--terminate", "--ike", "dvipa", "--force", "--timeout", "1"]);
    await until(`the client negotiates, ${mode} mode`, RECOVERY_LIMIT_MS, async () => {
      return (await this.#client.initiate(mode)).exitCode === 0;
    });
    this.#mode = mode;
  }

  /** The client rekeys its Child SA: the coupling service writes a new number line. */
  async rekey(): Promise<void> {
    await this.#client.rekey(this.#mode);
    await delay(REKEY_PAUSE_MS);
  }

  async #one(fault: Fault): Promise<void> {
    switch (fault.kind) {
      case "killCoupling":
      case "killTarget":
      case "killDistributor":
        return this.#kill(fault);
      case "failedWrite":
        return this.#failWrite(fault);
      case "cutLink":
        return this.#cut(fault);
    }
  }

  async #kill({ node, brokenMs }: Fault): Promise<void> {
    const daemon = [this.#lab.coupling, ...this.#lab.nodes].find((candidate) => candidate.node === node);
    if (daemon === undefined) throw new RangeError(`${node} runs no daemon`);
    await daemon.stop("SIGKILL");
    this.kills += 1;
    await delay(brokenMs);
    await daemon.start();
  }

  /**
   * No file of the service may grow beyond what its journal has now (EFBIG). Its log is emptied, so that it can go on. The limit is
   * lifted as soon as a write has failed: a service that then goes on granting is caught too (allocator.ts, A4).
   */
  async #failWrite({ brokenMs }: Fault): Promise<void> {
    const { coupling, stateDirectory } = this.#lab;
    await truncate(coupling.program.logFile);
    const { size } = await stat(join(stateDirectory, "journal"));
    await limitFileSize(coupling.program.pid, String(size));
    await until("the coupling service fails to write", WRITE_LIMIT_MS, async () => {
      // One that ends because it cannot write has failed too.
      if (coupling.program.end !== undefined || (await coupling.status()).failure !== null) return true;
      await this.rekey();
      return false;
    });
    if (coupling.program.end === undefined) await limitFileSize(coupling.program.pid, "unlimited");
    await delay(brokenMs);
    await coupling.stop("SIGTERM");
    await coupling.start();
  }

  async #cut({ node, brokenMs }: Fault): Promise<void> {
    await this.#lab.network.setLink(node, "trust", "down");
    await delay(brokenMs);
    await this.#lab.network.setLink(node, "trust", "up");
  }

  async #recovered(): Promise<void> {
    const { coupling, distributor, nodes, targets } = this.#lab;
    await coupling.waitFor("is ready", RECOVERY_LIMIT_MS, ({ ready }) => ready);
    for (const daemon of nodes) await daemon.waitFor("is ready", RECOVERY_LIMIT_MS, ({ ready }) => ready);
    await distributor.waitFor("has all targets", RECOVERY_LIMIT_MS, (status) =>
      targets.every(({ node }) => status.targets.some(({ name, connected }) => name === node && connected)),
    );
  }
}

async function limitFileSize(pid: number, bytes: string): Promise<void> {
  await runCommand("prlimit", ["--pid", String(pid), `--fsize=${bytes}`]);
}
