import type { Quantiles } from "./lease-agent.ts";
import { type Evidence, type LeaseLab, DVIPA, PORT, RECEIVER, UNLEASED_SOURCE } from "./lease-lab.ts";
import type { SendResult } from "./lease-sender.ts";
import type { RateRun } from "./rate-search.ts";

/** Numbers of each lease, or the production's own choice for a sole sender. */
export type LeaseLength = number | "sole";

/** One rate on one SA with leases. */
export interface LeaseRun extends RateRun {
  readonly sent: number;
  /** Times that the kernel stopped the state at its limit, and the daemon made it again. */
  readonly stops: number;
  /** Numbers given up while it ran, and numbers that were left of the lease at the end. */
  readonly burnt: number;
  readonly left: number;
  readonly refill: Quantiles;
  readonly reserve: Quantiles;
  /** Times that an event made the agent read the kernel. */
  readonly rereads: number;
  /** Processor time of the agent for one refill and the events around it, microseconds; null without refills. */
  readonly cpuUs: number | null;
}

/** Small beside the shortest lease that is measured. */
const BURST_PACKETS = 4;
const FIRST_SPI = 0x1000;
/** Two SPIs for each run: see `idle` of the agent. */
const SPI_STEP = 2;
const BURNT = "lease.burnt.";

/** Sends at rates and keeps count of what must then be in the capture. */
export class LeaseRuns {
  readonly #lab: LeaseLab;
  readonly #seconds: number;
  /** Packets that the capture must show, by SPI. */
  readonly #sent = new Map<number, number>();
  #spi = FIRST_SPI;

  constructor(lab: LeaseLab, seconds: number) {
    this.#lab = lab;
    this.#seconds = seconds;
  }

  /** Passes when the sender was not stopped. `pps` null: as fast as it goes. */
  async lease(length: LeaseLength, pps: number | null, times = 1): Promise<LeaseRun> {
    const { agent } = this.#lab;
    const soleLease = length === "sole" ? null : { firstNumbers: length, longestNumbers: length };
    const order = this.#order(DVIPA);
    await agent.call("lease", { order, soleLease });
    const result = await this.#send(DVIPA, pps, times);
    const { sa, counters, reserve, cpuUs } = await agent.call("observe", undefined);
    await agent.call("end", undefined);
    const count = (name: string): number => counters[name] ?? 0;
    const stops = count("lease.ranOut") + count("lease.reinstalled");
    const passed = result.errno === 0 && stops === 0;
    if (passed) this.#sent.set(order.spi, result.sent);
    const { lease } = sa;
    const refill = lease.refill ?? { samples: 0, p50us: null, p99us: null };
    const burnt = Object.entries(counters).filter(([name]) => name.startsWith(BURNT));
    return {
      ...{ pps: result.pps, passed, sent: result.sent, stops },
      burnt: burnt.reduce((total, [, numbers]) => total + numbers, 0),
      left: lease.end === null || lease.next === null ? 0 : Number(BigInt(lease.end) - BigInt(lease.next)),
      ...{ refill, reserve, rereads: count("lease.reread") },
      cpuUs: refill.samples === 0 ? null : Math.round(cpuUs / refill.samples),
    };
  }

  /** Packets a second of the same sender, as fast as it goes, on the same state without a limit. */
  async unleased(): Promise<number> {
    await this.#lab.agent.call("unlimited", this.#order(UNLEASED_SOURCE));
    const { pps, errno } = await this.#send(UNLEASED_SOURCE, null, 1);
    await this.#lab.agent.call("endUnlimited", undefined);
    if (errno !== 0) throw new Error(`a state without a limit refused a packet: errno ${errno}`);
    return pps;
  }

  /** What the parts of a refill take while nothing is sent. */
  async idle(): Promise<{ readonly reserve: Quantiles; readonly read: Quantiles }> {
    const order = this.#order(DVIPA);
    await this.#lab.agent.call("lease", { order, soleLease: null });
    const result = await this.#lab.agent.call("idle", order);
    await this.#lab.agent.call("end", undefined);
    return result;
  }

  /** What stands against the numbers, in words; nothing when all is well. */
  failuresOf({ wire, ledger }: Evidence): string[] {
    const failures: string[] = [];
    if (wire.duplicateCount > 0) failures.push(`${wire.duplicateCount} numbers were sent twice`);
    if (wire.cleartextFromDvipa > 0) failures.push(`${wire.cleartextFromDvipa} packets left in clear`);
    if (!ledger.proven) failures.push(`the ledger's verdict: ${ledger.named.join("; ")}`);
    if (wire.espFromDvipa === 0 || ledger.packets !== wire.espFromDvipa) {
      failures.push(`${ledger.packets} of ${wire.espFromDvipa} packets could be held against the ledger`);
    }
    for (const [spi, sent] of this.#sent) {
      const came = wire.espFromDvipaBySpi.get(spi) ?? 0;
      if (came !== sent) failures.push(`of ${sent} packets sent with SPI ${spi} without a stop, ${came} came`);
    }
    return failures;
  }

  #order(source: string): { source: string; peer: string; spi: number } {
    const spi = this.#spi;
    this.#spi += SPI_STEP;
    return { source, peer: RECEIVER, spi };
  }

  #send(source: string, pps: number | null, times: number): Promise<SendResult> {
    const pace = { pps, seconds: this.#seconds * times, burstPackets: BURST_PACKETS };
    return this.#lab.sender.call("send", { source, destination: RECEIVER, port: PORT, ...pace });
  }
}
