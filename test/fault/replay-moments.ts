import { setTimeout as delay } from "node:timers/promises";
import type { Lab } from "../../netns/lab.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { acceptedPackets, inboundStates, type Replayer, type Way } from "../support/replayer.ts";

const SETTLE_LIMIT_MS = 60_000;
/** Nothing has changed for so long: nothing is under way any more. */
const QUIET_MS = 400;
/** Packets that a dead distributor lets die. */
const DEAD_MS = 500;
/** A connection that stays open for some seconds. */
const DOWNLOAD_BYTES = 3_000_000;
const PACE = { bytesPerSecond: 1_000_000, limitSeconds: 60 };
/** A closed connection leaves the distributor's table after a minute (`closingIdleMs`). */
const FORGOTTEN_MS = 62_000;

/** What one moment came to. */
export interface MomentResult {
  readonly moment: string;
  readonly replayed: number;
  readonly acceptedTwice: number;
}

/** Packets so far. */
interface Counts {
  /** That the client has sent. */
  readonly recorded: number;
  /** That the kernels took, of those and of others. */
  readonly accepted: number;
}

/** The life of a cluster, with everything that was recorded sent again at each of its moments. */
export class ReplayMoments {
  readonly results: MomentResult[] = [];
  readonly #lab: Lab;
  readonly #client: StrongSwan;
  readonly #replayer: Replayer;
  readonly #say: (line: string) => void;

  constructor(lab: Lab, client: StrongSwan, replayer: Replayer, say: (line: string) => void) {
    this.#lab = lab;
    this.#client = client;
    this.#replayer = replayer;
    this.#say = say;
  }

  /** Some connections, one after the other, on every target. */
  async traffic(): Promise<void> {
    for (let i = 0; i < 2 * this.#lab.targets.length; i++) {
      const { ok, problem } = await requestName(this.#lab);
      if (!ok) throw new Error(`a request failed: ${problem}`);
    }
  }

  /**
   * Sends all that was recorded again, and counts what the kernels took of it. What the client sends meanwhile (the end of an
   * earlier connection that had to wait) is no double.
   */
  async again(moment: string, way: Way = this.#replayer.toDistributor, spi: number | null = null): Promise<void> {
    const before = await this.quiet();
    const handled = await this.#handled();
    const replayed = await this.#replayer.replay(way, { spi });
    await this.#settled(way, handled, replayed);
    const after = await this.quiet();
    const meanwhile = after.recorded - before.recorded;
    this.#note(moment, replayed, Math.max(0, after.accepted - before.accepted - meanwhile));
  }

  /** Each packet is sent again so much later, while connections open, go on and close. */
  async following(moment: string, delaysMs: readonly number[], traffic: () => Promise<void>): Promise<void> {
    const before = await this.quiet();
    const repeatedBefore = await this.#replayer.follow(delaysMs);
    await traffic();
    // What is still to be sent comes while everything is closed.
    await delay(Math.max(...delaysMs) + QUIET_MS);
    const replayed = (await this.#replayer.follow(null)) - repeatedBefore;
    const after = await this.quiet();
    const sent = (await this.#replayer.recorded()).slice(before.recorded);
    const once = new Set(sent.map(({ spi, sequence }) => `${spi} ${sequence}`)).size;
    this.#note(moment, replayed, Math.max(0, after.accepted - before.accepted - once));
  }

  /** A download at a moderate pace: its connection stays open meanwhile. */
  async download(): Promise<void> {
    const { ok, problem } = await download(this.#lab, DOWNLOAD_BYTES, PACE);
    if (!ok) throw new Error(`a download failed: ${problem}`);
  }

  /** A connection that is open, with something in the middle of it. */
  async whileOpen(between: () => Promise<void>): Promise<void> {
    const running = this.download();
    const isOpen = async (): Promise<boolean> =>
      (await this.#lab.distributor.status()).connections.some(({ state }) => state === "confirmed");
    await until("a connection is open", SETTLE_LIMIT_MS, isOpen);
    await between();
    await running.catch((error: unknown) => this.#say(`  ${String(error).split("\n", 1)[0]}`));
  }

  async forgotten(): Promise<void> {
    await delay(FORGOTTEN_MS);
    await until("the distributor has forgotten its connections", SETTLE_LIMIT_MS, async () => {
      return (await this.#lab.distributor.status()).connections.length === 0;
    });
  }

  /** The client rekeys; resolves with the old SPIs once no kernel has them any more. */
  async rekey(): Promise<readonly number[]> {
    const old = new Set((await inboundStates(this.#lab)).map(({ spi }) => spi));
    await this.#client.rekey("transport");
    await until("the old SA is gone everywhere", SETTLE_LIMIT_MS, async () => {
      const now = await inboundStates(this.#lab);
      return now.length > 0 && now.every(({ spi }) => !old.has(spi));
    });
    return [...old];
  }

  /** Another program removes all states of a target; resolves when they are back. */
  async flushStates(target: string): Promise<void> {
    await this.#lab.network.run(target, ["ip", "xfrm", "state", "flush"]);
    await until(`${target} has its states again`, SETTLE_LIMIT_MS, async () => {
      return (await inboundStates(this.#lab)).some(({ node }) => node === target);
    });
  }

  async restart(target: string, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    await this.#lab.target(target).stop(signal);
    await this.#lab.startTarget(target);
  }

  /**
   * What was recorded and what the kernels have accepted, once neither grows any more: a client is not silent when its connections
   * are closed (a target that has got a replayed SYN repeats its SYN-ACK for a minute, and each is answered).
   */
  async quiet(): Promise<Counts> {
    let last = await this.#counts();
    await until("the client is silent", SETTLE_LIMIT_MS, async () => {
      await delay(QUIET_MS);
      const now = await this.#counts();
      const isQuiet = now.accepted === last.accepted && now.recorded === last.recorded;
      last = now;
      return isQuiet;
    });
    return last;
  }

  async #counts(): Promise<Counts> {
    return { recorded: (await this.#replayer.recorded()).length, accepted: await acceptedPackets(this.#lab) };
  }

  #note(moment: string, replayed: number, acceptedTwice: number): void {
    this.results.push({ moment, replayed, acceptedTwice });
    this.#say(`${acceptedTwice === 0 ? "✓" : "✗"} ${moment}: ${replayed} sent again, ${acceptedTwice} accepted`);
  }

  /** The distributor has given all of them a verdict; a dead one never does. */
  async #settled(way: Way, before: number | null, replayed: number): Promise<void> {
    const isDistributor = way.mac === null;
    if (!isDistributor || before === null) return delay(DEAD_MS);
    await until("the distributor has dealt with all of them", SETTLE_LIMIT_MS, async () => {
      return ((await this.#handled()) ?? 0) >= before + replayed;
    });
  }

  /** Verdicts of the distributor so far: only to know when to count. Null when it is dead. */
  async #handled(): Promise<number | null> {
    if (this.#lab.distributor.program.end !== undefined) return null;
    const { counters } = await this.#lab.distributor.status();
    const verdicts = Object.entries(counters).filter(([name]) => /^steer\.(drop\.|local\.|forwarded$)/.test(name));
    return verdicts.reduce((sum, [, count]) => sum + count, 0);
  }
}
