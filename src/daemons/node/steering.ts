import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { Log } from "../../core/log.ts";
import { pendingMark, steeringMark } from "../../net/ids.ts";
import { openQueue, type PacketQueue, type QueueCounters, type QueuedPacket } from "../../net/nfqueue.ts";
import { icvMark, isAuthentic } from "../../sa/authenticity.ts";
import { parseEsp, type EspPacket } from "../../sa/packet.ts";
import type { SharedSa } from "../../sa/spec.ts";
import type { IpsecProtocol } from "../../sa/suite.ts";
import { HoldingQueue } from "../../steer/holding-queue.ts";
import type { InboundReplay } from "../../steer/inbound-replay.ts";
import type { LeaseGate } from "../../steer/lease-gate.ts";
import { decide, replayRefusal, type SteeringTables, type Verdict } from "../../steer/verdict.ts";
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

type Passed = Extract<Verdict, { kind: "forward" | "local" }>;

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
    this.#decide(id, payload, false);
  }

  /** `packet` is valid only during the call. `hasWaited`: it came early, and what it waited for has happened, or took too long. */
  #decide(id: number, packet: Uint8Array, hasWaited: boolean): void {
    const { tables, clock } = this.#context;
    const nowMs = clock.nowMs();
    const verdict = decide(packet, tables, nowMs);
    if (!hasWaited && this.#isTooEarly(id, packet, verdict)) return;
    if (verdict.kind === "drop") this.#drop(id, verdict, nowMs);
    else this.#pass(id, packet, verdict, nowMs);
  }

  /**
   * True when the packet waits: for the installation of its SA on all nodes; or until all of them send on it, for the peer may have
   * let the old SA go, and what answers this packet must not be sent on that one (RFC 7296 §2.8). A forged packet says nothing of the kind.
   */
  #isTooEarly(id: number, packet: Uint8Array, verdict: Verdict): boolean {
    const { sas } = this.#context;
    const spi = verdict.kind === "drop" ? verdict.unknown?.spi : verdict.esp.spi;
    const installed = spi === undefined ? null : sas.untilInstalled(spi);
    if (installed !== null) {
      const copy = packet.slice();
      this.#early.hold(
        `${spi}`,
        () => installed,
        () => this.#decide(id, copy, true),
      );
      return true;
    }
    if (verdict.kind === "drop" || !sas.isUnsent(verdict.sa.id)) return false;
    const { sa, esp, stripped } = verdict;
    if (!this.#ahead.isHolding(sa.id) && !isAuthentic(sa, stripped ?? packet, esp)) return false;
    const copy = packet.slice();
    this.#ahead.hold(
      sa.id,
      () => sas.heard(sa.id),
      () => this.#decide(id, copy, true),
    );
    return true;
  }

  #drop(id: number, { reason, unknown }: Extract<Verdict, { kind: "drop" }>, nowMs: number): void {
    this.#context.counters.add(`steer.drop.${reason}`);
    this.#queue?.verdict(id, "drop");
    if (unknown !== undefined && this.#hints.take(nowMs)) this.#tellUnknown(unknown);
  }

  /** Once the node can answer. A packet that had to wait for that is looked at again: its double may have passed meanwhile. */
  #pass(packetId: number, packet: Uint8Array, verdict: Passed, nowMs: number): void {
    const { gate, clock, counters, nodeName } = this.#context;
    const { sa, replay, stripped } = verdict;
    const { sequence } = verdict.esp;
    const mark = icvMark(verdict.esp);
    const node = verdict.kind === "local" ? nodeName : verdict.target;
    const sender = sa.gateway === undefined ? node : nodeName;
    if (stripped !== null) counters.add("steer.udpStripped");
    if (verdict.kind === "local") counters.add(`steer.local.${verdict.reason}`);
    else if (verdict.isNew) counters.add(`steer.connections.${node}`);
    let hasPassed = false;
    let waiting: Uint8Array | null = null;
    gate.enter(sender, sa.reqid, nowMs, (decision) => {
      hasPassed = true;
      const refusal = waiting === null ? null : lateRefusal(sa, replay, waiting);
      if (refusal !== null) counters.add(`steer.drop.${refusal}`);
      const routeMark = verdict.kind === "local" ? 0 : this.#markOf(verdict);
      if (decision !== "forward" || refusal !== null || routeMark === null) {
        this.#queue?.verdict(packetId, "drop");
        return;
      }
      // Where it is decrypted, its number is known.
      const decrypts = verdict.kind === "forward" && verdict.opened ? nodeName : node;
      replay.passed(sequence, decrypts, mark, waiting === null ? nowMs : clock.nowMs());
      if (verdict.kind === "forward") counters.add(verdict.opened ? "steer.opened" : "steer.forwarded");
      this.#queue?.verdict(packetId, "accept", { ...(routeMark !== 0 && { mark: routeMark }), payload: stripped });
    });
    if (!hasPassed) waiting = stripped ?? packet.slice();
  }

  #tellUnknown({ outer, protocol, spi }: EspPacket): void {
    this.#context.onUnknownSpi({ protocol, peer: outer.source, dvipa: outer.destination, spi });
  }

  /** Null when the target cannot be reached. */
  #markOf({ target, sa, opened }: Extract<Verdict, { kind: "forward" }>): number | null {
    const index = this.#context.targetIndex(target, sa.dvipa);
    if (index !== null) return opened ? pendingMark(index) : steeringMark(index);
    this.#context.counters.add("steer.drop.noRoute");
    return null;
  }
}

/** Of a packet (without UDP) that was admitted some time ago. */
function lateRefusal(sa: SharedSa, replay: InboundReplay, packet: Uint8Array): ReturnType<typeof replayRefusal> {
  const esp = parseEsp(packet);
  return typeof esp === "string" ? null : replayRefusal(sa, replay, packet, esp);
}
