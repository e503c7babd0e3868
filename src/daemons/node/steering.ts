import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { Log } from "../../core/log.ts";
import { steeringMark } from "../../net/ids.ts";
import { openQueue, type PacketQueue, type QueueCounters, type QueuedPacket } from "../../net/nfqueue.ts";
import type { EspPacket } from "../../sa/packet.ts";
import type { IpsecProtocol } from "../../sa/suite.ts";
import type { LeaseGate } from "../../steer/lease-gate.ts";
import { decide, type SteeringTables, type Verdict } from "../../steer/verdict.ts";
import { STEERING_QUEUE } from "./host-network.ts";

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

/** What steering needs to know of the rest of the node. */
export interface SteeringContext {
  readonly nodeName: string;
  readonly tables: SteeringTables;
  readonly gate: LeaseGate;
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

  constructor(context: SteeringContext) {
    this.#context = context;
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

  #steer(packet: QueuedPacket): void {
    const { tables, gate, clock, counters, nodeName } = this.#context;
    const nowMs = clock.nowMs();
    const verdict = decide(packet.payload, tables, nowMs);
    if (verdict.kind === "drop") {
      counters.add(`steer.drop.${verdict.reason}`);
      this.#queue?.verdict(packet.id, "drop");
      if (verdict.unknown !== undefined && this.#hints.take(nowMs)) this.#tellUnknown(verdict.unknown);
      return;
    }
    if (verdict.stripped !== null) counters.add("steer.udpStripped");
    const { stripped } = verdict;
    if (verdict.kind === "local") {
      counters.add(`steer.local.${verdict.reason}`);
      gate.enter(nodeName, verdict.sa.reqid, nowMs, (pass) =>
        pass === "forward"
          ? this.#queue?.verdict(packet.id, "accept", { payload: stripped })
          : this.#queue?.verdict(packet.id, "drop"),
      );
      return;
    }
    if (verdict.isNew) counters.add(`steer.connections.${verdict.target}`);
    gate.enter(verdict.target, verdict.sa.reqid, nowMs, (pass) =>
      this.#forward(packet.id, verdict, pass === "forward"),
    );
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
