import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import { ICMP_ERROR_MARK, steeringMark } from "../../net/ids.ts";
import { openQueue, type PacketQueue, type QueuedPacket, type QueueOptions } from "../../net/nfqueue.ts";
import { parseIcmpError, parseTcpError, type IcmpErrorFailure } from "../../sa/icmp-error.ts";
import type { SharedSa } from "../../sa/spec.ts";
import type { ConnectionTable } from "../../steer/connection-table.ts";
import type { OutboundSas } from "../../steer/outbound-sas.ts";

/** Number of the queue between the kernel and this; our choice. */
export const ICMP_QUEUE = 4552;
/** An ICMPv6 error fits into the smallest MTU of IPv6, 1280 (RFC 4443 §2.4), one of IPv4 into 576 (RFC 1812 §4.3.2.3). */
const COPY_RANGE_BYTES = 1_500;
/** Errors that wait in the kernel, and questions in each second: anybody can send them. Our choice. */
const MAX_WAITING = 256;
const QUESTIONS_PER_SECOND = 100;

/** Why an ICMP error about IPsec was dropped; each is a counter `icmp.drop.<reason>`. */
export type IcmpDrop = IcmpErrorFailure | "unknownSa" | "tooMany" | "unanswered" | "unknownNumber" | "noRoute";

/** `QueuedPacket.indev` of a packet that this host's own kernel has made. */
const MADE_HERE = 0;

/** A packet that a node has sent. */
interface SentPacket {
  readonly sa: SharedSa;
  readonly sequence: number;
}

export interface IcmpErrorsContext {
  readonly nodeName: string;
  readonly sas: OutboundSas;
  /** Asks who was granted this sequence number of the SA; null when nobody knows. */
  readonly holderOf: (sa: SharedSa, sequence: number) => Promise<string | null>;
  readonly connections: Pick<ConnectionTable, "targetOf">;
  /** The number of a target, for its mark; null when packets to the DVIPA cannot be sent on to it. */
  readonly targetIndex: (target: string, dvipa: string) => number | null;
  /** The packets of the kernel; tests have their own. */
  readonly open?: (options: QueueOptions) => Promise<Pick<PacketQueue, "verdict" | "close">>;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * ICMP errors about the ESP and AH that leaves the DVIPAs. A router sends them to the DVIPA, but only the kernel that sent the packet can
 * heed them (path MTU, RFC 4301 §8.2): they go to the node that was granted the packet's sequence number. That is also what
 * protects from forged ones: who has not seen a packet of the last moments does not know such a number.
 *
 * And those of this node's own kernel about what targets have sent it in clear, for it to protect: they go to the connection's target.
 */
export class IcmpErrors {
  readonly #context: IcmpErrorsContext;
  readonly #questions = new RateLimit(QUESTIONS_PER_SECOND);
  #queue: Pick<PacketQueue, "verdict" | "close"> | null = null;

  constructor(context: IcmpErrorsContext) {
    this.#context = context;
  }

  /** A second call does nothing. */
  async start(): Promise<void> {
    const { open = openQueue, counters, log } = this.#context;
    this.#queue ??= await open({
      number: ICMP_QUEUE,
      copyRangeBytes: COPY_RANGE_BYTES,
      maxLength: MAX_WAITING,
      onPacket: (packet) => this.#taken(packet),
      onOverrun: () => counters.add("icmp.drop.tooMany"),
      onFault: (error) => {
        counters.add("icmp.fault");
        log.error("an ICMP error could not be handled", { reason: messageOf(error) });
      },
    });
  }

  async stop(): Promise<void> {
    await this.#queue?.close();
    this.#queue = null;
  }

  #taken({ id, payload, indev }: QueuedPacket): void {
    if (indev === MADE_HERE) {
      this.#sendOn(id, payload);
      return;
    }
    const about = this.#sentPacket(payload);
    if (typeof about === "string") this.#drop(id, about);
    else void this.#deliver(id, about);
  }

  /** About this node's own connections, its kernel heeds it. */
  #sendOn(id: number, packet: Uint8Array): void {
    const { connections, counters } = this.#context;
    const connection = parseTcpError(packet);
    const target = connection === null ? null : connections.targetOf(connection);
    if (connection === null || target === null) {
      this.#queue?.verdict(id, "accept");
      return;
    }
    const mark = this.#markOf(target, connection.dvipa);
    if (mark === null) this.#drop(id, "noRoute");
    else {
      counters.add("icmp.forwarded");
      this.#queue?.verdict(id, "accept", { mark });
    }
  }

  #markOf(target: string, dvipa: string): number | null {
    const index = this.#context.targetIndex(target, dvipa);
    return index === null ? null : steeringMark(index);
  }

  /** The packet of ours that an error is about, if its sender may be asked for. */
  #sentPacket(packet: Uint8Array): SentPacket | IcmpDrop {
    const error = parseIcmpError(packet);
    if (typeof error === "string") return error;
    const sa = this.#context.sas.find(error);
    if (sa === null) return "unknownSa";
    return this.#questions.take(this.#context.clock.nowMs()) ? { sa, sequence: error.sequence } : "tooMany";
  }

  async #deliver(id: number, packet: SentPacket): Promise<void> {
    const mark = await this.#markFor(packet);
    if (typeof mark === "string") this.#drop(id, mark);
    else this.#queue?.verdict(id, "accept", { mark });
  }

  /** The mark that takes the error to the sender of its packet. */
  async #markFor({ sa, sequence }: SentPacket): Promise<number | IcmpDrop> {
    const { nodeName, holderOf, counters, log } = this.#context;
    let holder: string | null;
    try {
      holder = await holderOf(sa, sequence);
    } catch (error) {
      log.debug("the coupling service did not say who sent a packet", { reason: messageOf(error) });
      return "unanswered";
    }
    if (holder === null) return "unknownNumber";
    if (holder === nodeName) {
      counters.add("icmp.local");
      return ICMP_ERROR_MARK;
    }
    const mark = this.#markOf(holder, sa.dvipa);
    if (mark === null) return "noRoute";
    counters.add("icmp.forwarded");
    return mark;
  }

  #drop(id: number, reason: IcmpDrop): void {
    this.#context.counters.add(`icmp.drop.${reason}`);
    this.#queue?.verdict(id, "drop");
  }
}
