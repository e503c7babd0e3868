import { randomInt } from "node:crypto";
import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { wipeSaKeys, type SharedSa } from "../../sa/spec.ts";
import { protocolOf } from "../../sa/suite.ts";
import { hasCounterNonce } from "../../sequence/nonce-budget.ts";
import { windowCarriesBursts } from "../../sequence/size.ts";
import type { LeaseGate } from "../../steer/lease-gate.ts";
import { OfferedSpis } from "../../steer/offered-spis.ts";
import type { OutboundSas } from "../../steer/outbound-sas.ts";
import type { InboundSas } from "../../steer/verdict.ts";
import type { CouplingLink } from "./coupling-link.ts";
import type { SaKeeper } from "./sa-keeper.ts";
import { OWN_IKE } from "./sa-table.ts";
import type { DistributedSa, Targets } from "./targets.ts";
import { Tunnels } from "./tunnels.ts";
import type { UseBook } from "./use-book.ts";

/** The smallest SPI that is not reserved (RFC 4303 §2.1), and one past the largest. */
const SPI_MIN = 256;
const SPI_END = 2 ** 32;

export interface SaRolloutContext {
  readonly keeper: SaKeeper;
  readonly coupling: CouplingLink;
  readonly targets: Pick<Targets, "install" | "useOutbound" | "movePeer" | "remove">;
  readonly use: UseBook;
  readonly gate: LeaseGate;
  /** Where packets look their SA up. */
  readonly inbound: InboundSas;
  /** Likewise of what comes back of the nodes' own packets. */
  readonly outbound: OutboundSas;
  /** Null for a DVIPA that this node does not own. */
  readonly epochOf: (dvipa: string) => bigint | null;
  /** The same SA with the filter rules that are about its peer. */
  readonly filtered: (sa: SharedSa) => SharedSa;
  /** A packet of the peer on an SA that we do not send on yet: IKE decides whether that changes now. */
  readonly onHeard: (saId: string) => Promise<void>;
  /** Every node has the SA. */
  readonly onInstalled: (sa: SharedSa) => void;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * The SAs that this distributor's IKE has negotiated, from the SPI that is offered to the removal everywhere: number line, own
 * kernel, targets, and the table in which inbound packets are looked up.
 */
export class SaRollout {
  readonly #context: SaRolloutContext;
  readonly #sas = new Map<string, DistributedSa>();
  readonly #tunnels = new Tunnels();
  readonly #offered = new OfferedSpis();
  /** Those beside an older one of their tunnel that nobody of us sends on so far, whoever asked for them. */
  readonly #unsent = new Set<string>();
  /** By tunnel: the last switch to another SA that is under way. */
  readonly #switches = new Map<number, Promise<void>>();

  constructor(context: SaRolloutContext) {
    this.#context = context;
  }

  all(): Iterable<DistributedSa> {
    return this.#sas.values();
  }

  get(saId: string): DistributedSa | undefined {
    return this.#sas.get(saId);
  }

  /** Random, so that an SPI of an earlier life of this node does not come back soon. */
  newSpi(): number {
    for (;;) {
      const spi = randomInt(SPI_MIN, SPI_END);
      if (this.#context.inbound.hasSpi(spi) || this.#offered.has(spi)) continue;
      this.#offered.offer(spi, this.#context.clock.nowMs());
      return spi;
    }
  }

  /** What packets with this SPI had better wait for: its SA is about to be installed. Null for nothing. */
  untilInstalled(spi: number): Promise<void> | null {
    return this.#offered.untilInstalled(spi);
  }

  /** True for an SA that we receive on and that nobody of us sends on yet: its first authentic packet changes that. */
  isUnsent(saId: string): boolean {
    return this.#unsent.has(saId);
  }

  /** The peer uses the SA. Resolves when we send on it too, or when IKE does not want that. */
  async heard(saId: string): Promise<void> {
    await this.#context.onHeard(saId);
    await this.untilSwitched(saId);
    // Also when IKE wants to send on another one: it has been told.
    this.#unsent.delete(saId);
  }

  /** Resolves once the SA is in the kernels of the distributor and its targets. */
  async install(negotiated: SharedSa, outbound: "now" | "hold"): Promise<void> {
    try {
      await this.#install(negotiated, outbound);
    } finally {
      this.#offered.settle(negotiated.inbound.spi);
    }
  }

  async #install(negotiated: SharedSa, outbound: "now" | "hold"): Promise<void> {
    const { targets, use, filtered, onInstalled, counters, log } = this.#context;
    const sa = filtered({ ...negotiated, reqid: this.#tunnels.take(negotiated) });
    let entry: DistributedSa;
    try {
      entry = await this.#installHere(sa, outbound);
    } catch (error) {
      this.#tunnels.release(sa);
      wipeSaKeys(sa);
      throw error;
    }
    this.#sas.set(sa.id, entry);
    if (outbound === "hold") this.#unsent.add(sa.id);
    this.#context.inbound.add(sa);
    this.#context.outbound.add(sa);
    use.add(sa);
    await targets.install(entry);
    this.#warnOfSmallWindow(sa);
    onInstalled(sa);
    counters.add("sa.installed");
    log.info("SA installed on distributor and targets", { sa: sa.id, peer: sa.peerName, mode: sa.mode, outbound });
  }

  /** All nodes send on the SA from now on, of those of its tunnel; resolves once they do. */
  async useOutbound(saId: string): Promise<void> {
    const entry = this.#sas.get(saId);
    if (entry === undefined) return;
    if (entry.outbound === "now") return this.untilSwitched(saId);
    // For a target that joins now: it gets the older ones for receiving only.
    for (const older of this.#sas.values()) if (older.sa.reqid === entry.sa.reqid) older.outbound = "hold";
    entry.outbound = "now";
    const { keeper, targets } = this.#context;
    const { sa } = entry;
    const elsewhere = sa.gateway === undefined ? targets.useOutbound(sa) : null;
    const switched = Promise.all([keeper.useOutbound(saId), elsewhere]).then(() => {});
    this.#switches.set(sa.reqid, switched);
    try {
      await switched;
    } finally {
      this.#unsent.delete(saId);
      if (this.#switches.get(sa.reqid) === switched) this.#switches.delete(sa.reqid);
    }
  }

  /** Resolves once no switch between this SA and others of its tunnel is under way; also when the switch failed. */
  async untilSwitched(saId: string): Promise<void> {
    const entry = this.#sas.get(saId);
    if (entry === undefined) return;
    await this.#switches.get(entry.sa.reqid)?.catch(() => {});
  }

  async movePeer(saId: string, peerUdpPort: number): Promise<void> {
    const { keeper, targets, counters } = this.#context;
    const entry = this.#sas.get(saId);
    if (entry === undefined) return;
    entry.sa = { ...entry.sa, peerUdpPort };
    await Promise.all([keeper.movePeer(saId, peerUdpPort), targets.movePeer(entry.sa)]);
    counters.add("sa.moved");
  }

  /** Leaves nothing of the SA anywhere; harmless when there is nothing. */
  async remove(saId: string, reason: string): Promise<void> {
    const { keeper, targets, use, gate, coupling, counters, log } = this.#context;
    const entry = this.#sas.get(saId);
    if (entry === undefined) return;
    const { sa, epoch } = entry;
    this.#sas.delete(saId);
    this.#unsent.delete(saId);
    this.#context.inbound.remove(sa);
    this.#context.outbound.remove(sa);
    use.remove(saId);
    const goneTunnel = this.#tunnels.release(sa);
    if (goneTunnel !== null) gate.forgetTunnel(goneTunnel);
    await Promise.all([keeper.remove(OWN_IKE, saId), targets.remove(sa)]);
    counters.add("sa.removed");
    log.info("SA removed from distributor and targets", { sa: saId, peer: sa.peerName, reason });
    coupling.request("retireSa", { sa: saId, dvipa: sa.dvipa, epoch }).catch((error: unknown) => {
      // Nobody can ask for its numbers any more: the entry at the service is only litter.
      log.debug("the coupling service did not hear of a removed SA", { sa: saId, reason: messageOf(error) });
    });
  }

  async removeAll(reason: string): Promise<void> {
    for (const saId of [...this.#sas.keys()]) await this.remove(saId, reason);
  }

  /** The window rule cannot be kept for two busy senders: said aloud, for the peer would only see stalls. */
  #warnOfSmallWindow({ peerName, peerWindowPackets }: SharedSa): void {
    if (windowCarriesBursts(peerWindowPackets, 2)) return;
    this.#context.counters.add("lease.windowTooSmall");
    this.#context.log.warn(
      "the peer's anti-replay window is too small for two busy targets at once: they will stop and refill all the time. " +
        "Set a larger one at the peer, and the same as `replayWindow` of this peer in the cluster file",
      { peer: peerName, replayWindow: peerWindowPackets },
    );
  }

  /** Opens the SA's number line, then puts the SA into this node's kernel. */
  async #installHere(sa: SharedSa, outbound: "now" | "hold"): Promise<DistributedSa> {
    const { coupling, keeper, epochOf } = this.#context;
    const { id, dvipa, esn, peer, peerWindowPackets: windowPackets } = sa;
    const epoch = epochOf(dvipa);
    if (epoch === null) throw new EsplexError("cluster.notOwner", `this node does not own ${dvipa}`);
    const { spi } = sa.outbound;
    const numbers = { firstNumber: 1n, windowPackets, esn, counterNonce: hasCounterNonce(sa.suite) };
    await coupling.request("registerSa", {
      ...{ sa: id, dvipa, epoch, ...numbers, spi, peer },
      protocol: protocolOf(sa.suite),
    });
    const entry: DistributedSa = { sa, epoch, outbound };
    await keeper.install(OWN_IKE, entry);
    return entry;
  }
}
