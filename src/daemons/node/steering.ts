import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { Log } from "../../core/log.ts";
import { steeringMark } from "../../net/ids.ts";
import { openQueue, type PacketQueue, type QueueCounters, type QueuedPacket } from "../../net/nfqueue.ts";
import { isAuthentic } from "../../sa/authenticity.ts";
import type { EspPacket } from "../../sa/packet.ts";
import type { IpsecProtocol } from "../../sa/suite.ts";
import { HoldingQueue } from "../../steer/holding-queue.ts";
import type { LeaseGate } from "../../steer/lease-gate.ts";
import { decide, type SteeringTables, type Verdict } from "../../steer/verdict.ts";
import { STEERING_QUEUE } from "./host-network.ts";
import type { SaRollout } from "./sa-rollout.ts";

/** The trailer of a transport-mode packet tells its protocol, so whole packets are copied; what is longer has been cut and is dropped. */
const COPY_RANGE_BYTES = 65_535;
/** ESP of unknown SAs that IKE hears of, in each second: anybody can send it, and looking for its peer costs. Our choice. */
const HINTS_PER_SECOND = 20;
/** Packets that wait in the kernel for a verdict, as far as its buffer has room for them; our choice. */
const QUEUE_LENGTH_PACKETS = 10_000;

/** A packet of no SA. */
export interface UnknownIpsec {
  readonly protocol: IpsecProtocol;
  readonly peer: string;
  readonly dvipa: string;
  readonly spi: number;
}

type Passed = Exclude<Verdict, { kind: "drop" }>;

/** What steering needs to know of the rest of the node. */
export interface SteeringContext {
  readonly nodeName: string;
  readonly tables: SteeringTables;
  readonly gate: LeaseGate;
  readonly sas: Pick<SaRollout, "untilInstalled" | "isUnsent" | "heard">;
  /** The number of a target, for its mark; null when packets to the DVIPA cannot be sent on to it. */
  targetIndex(target: string, dvipa: string): number | null;
  /** ESP or AH that belongs to no SA was dropped. */
  onUnknownSpi(esp: UnknownIpsec): void;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * The slow path of inbound packets: each ESP or AH packet to a DVIPA comes here from the kernel, still protected, and gets its
 * verdict: on to a target by a mark, to this host's own kernel, or dropped. It waits where its node has no lease yet.
 */
export class Steering {
  readonly #context: SteeringContext;
  #queue: PacketQueue | null = null;
  readonly #hints = new RateLimit(HINTS_PER_SECOND);
  /** What came before its SA is everywhere, by SPI. */
  readonly #early: HoldingQueue;
  /** What came on an SA that the peer sends on and we do not yet, by SA. */
  readonly #ahead: HoldingQueue;

  constructor(context: SteeringContext) {
    this.#context = context;
    this.#early = new HoldingQueue("early", context.clock, context.counters);
    this.#ahead = new HoldingQueue("ahead", context.clock, context.counters);
  }

  /** A second call does nothing. */
  async start(): Promise<void> {
    const { counters, log } = this.#context;
    this.#queue ??= await openQueue({
      number: STEERING_QUEUE,
      copyRangeBytes: COPY_RANGE_BYTES,
      maxLength: QUEUE_LENGTH_PACKETS,
      onPacket: (packet) => this.#steer(packet),
      onOverrun: () => counters.add("steer.drop.queueOverrun"),
      onFault: (error) => {
        counters.add("steer.fault");
        log.error("a packet could not be steered", { reason: messageOf(error) });
      },
    });
  }

  async stop(): Promise<void> {
    await this.#queue?.close();
    this.#queue = null;
  }

  /** What the kernel counts for the queue; null while it is not open. */
  queueCounters(): QueueCounters | null {
    return this.#queue?.counters() ?? null;
  }

  #steer({ id, payload }: QueuedPacket): void {
    const { tables, clock, sas } = this.#context;
    const verdict = decide(payload, tables, clock.nowMs());
    const spi = verdict.kind === "drop" ? verdict.unknown?.spi : verdict.esp.spi;
    const installed = spi === undefined ? null : sas.untilInstalled(spi);
    if (installed === null) {
      this.#follow(id, payload, verdict);
      return;
    }
    const packet = payload.slice();
    this.#early.hold(
      `${spi}`,
      () => installed,
      () => {
        this.#follow(id, packet, decide(packet, tables, clock.nowMs()));
      },
    );
  }

  #follow(id: number, packet: Uint8Array, verdict: Verdict): void {
    const { clock, counters } = this.#context;
    if (verdict.kind === "drop") {
      counters.add(`steer.drop.${verdict.reason}`);
      this.#queue?.verdict(id, "drop");
      if (verdict.unknown !== undefined && this.#hints.take(clock.nowMs())) this.#tellUnknown(verdict.unknown);
      return;
    }
    if (verdict.stripped !== null) counters.add("steer.udpStripped");
    if (this.#mustWaitForSwitch(verdict, packet)) {
      this.#ahead.hold(
        verdict.sa.id,
        () => this.#context.sas.heard(verdict.sa.id),
        () => this.#pass(id, verdict),
      );
    } else this.#pass(id, verdict);
  }

  /**
   * The peer may have let the old SA go, so what answers this packet must not be sent on it any more (RFC 7296 §2.8). A forged
   * packet says nothing of the kind.
   */
  #mustWaitForSwitch({ sa, esp, stripped }: Passed, packet: Uint8Array): boolean {
    if (!this.#context.sas.isUnsent(sa.id)) return false;
    return this.#ahead.isHolding(sa.id) || isAuthentic(sa, stripped ?? packet, esp);
  }

  /** To its node, as soon as that one can answer. */
  #pass(id: number, verdict: Passed): void {
    const { gate, clock, counters, nodeName } = this.#context;
    const nowMs = clock.nowMs();
    if (verdict.kind === "local") {
      counters.add(`steer.local.${verdict.reason}`);
      gate.enter(nodeName, verdict.sa.reqid, nowMs, (pass) =>
        pass === "forward"
          ? this.#queue?.verdict(id, "accept", { payload: verdict.stripped })
          : this.#queue?.verdict(id, "drop"),
      );
      return;
    }
    if (verdict.isNew) counters.add(`steer.connections.${verdict.target}`);
    gate.enter(verdict.target, verdict.sa.reqid, nowMs, (pass) => this.#forward(id, verdict, pass === "forward"));
  }

  #tellUnknown({ outer, protocol, spi }: EspPacket): void {
    this.#context.onUnknownSpi({ protocol, peer: outer.source, dvipa: outer.destination, spi });
  }

  #forward(packetId: number, { target, sa, stripped }: Extract<Verdict, { kind: "forward" }>, pass: boolean): void {
    const { counters } = this.#context;
    const index = this.#context.targetIndex(target, sa.dvipa);
    if (index === null) counters.add("steer.drop.noRoute");
    if (!pass || index === null) {
      this.#queue?.verdict(packetId, "drop");
      return;
    }
    counters.add("steer.forwarded");
    this.#queue?.verdict(packetId, "accept", { mark: steeringMark(index), payload: stripped });
  }
}
