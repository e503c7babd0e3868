import type { NoticeBody } from "../../bus/messages.ts";
import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import { TRAP_REQID } from "../../net/ids.ts";
import type { NetlinkSocket } from "../../net/netlink-socket.ts";
import { openEvents, type XfrmEvent } from "../../xfrm/events.ts";
import type { Trap } from "../../xfrm/shadow.ts";
import type { SaSource } from "./sa-table.ts";

/** Requests for an SA that one node makes in a second. The kernel itself asks once for each pair of addresses. Our choice. */
const ACQUIRES_PER_SECOND = 10;

export type Acquire = NoticeBody<"acquire">;

export interface TrapsContext {
  /** A packet needs an SA of this source. */
  readonly onAcquire: (source: SaSource, acquire: Acquire) => void;
  readonly clock: Clock;
  readonly counters: Counters;
  readonly log: Log;
}

/**
 * Hears the kernel ask for SAs, while there are traps: a listener makes it keep a larval state for each packet without an SA,
 * which only they need.
 */
export class Traps {
  readonly #context: TrapsContext;
  readonly #bySource = new Map<SaSource, readonly Trap[]>();
  readonly #rate = new RateLimit(ACQUIRES_PER_SECOND);
  #events: NetlinkSocket | null = null;
  #hasAsked = false;
  #isClosed = false;

  constructor(context: TrapsContext) {
    this.#context = context;
  }

  /** Before the policies of these traps are put into the kernel. */
  set(source: SaSource, traps: readonly Trap[]): void {
    if (this.#isClosed) return;
    if (traps.length === 0) this.#bySource.delete(source);
    else this.#bySource.set(source, traps);
    if (this.#bySource.size > 0) this.#events ??= this.#open();
    else this.#close();
  }

  /**
   * True when the kernel has asked since the last call: it may still wait for an answer, and does not ask anew for that pair of addresses
   * while it does (`net.core.xfrm_acq_expires`).
   */
  takeAsked(): boolean {
    const hasAsked = this.#hasAsked;
    this.#hasAsked = false;
    return hasAsked;
  }

  /** Before the policies go, so that no larval state comes after them. */
  close(): void {
    this.#isClosed = true;
    this.#close();
  }

  #close(): void {
    this.#events?.close();
    this.#events = null;
  }

  #open(): NetlinkSocket {
    const { counters, log } = this.#context;
    return openEvents({
      groups: ["ACQUIRE"],
      onEvent: (event) => this.#onEvent(event),
      // The kernel asks again while packets come.
      onOverrun: () => counters.add("acquire.eventsLost"),
      onFault: (error) => log.error("an acquire could not be handled", { reason: messageOf(error) }),
    });
  }

  #onEvent(event: XfrmEvent): void {
    if (event.kind !== "acquire" || event.reqid !== TRAP_REQID) return;
    this.#hasAsked = true;
    const { clock, counters } = this.#context;
    const dvipa = event.selector.source.address;
    const source = [...this.#bySource].find(([, traps]) => traps.some((trap) => trap.dvipa === dvipa))?.[0];
    if (source === undefined) return;
    if (!this.#rate.take(clock.nowMs())) {
      counters.add("acquire.tooMany");
      return;
    }
    counters.add("acquire.asked");
    this.#context.onAcquire(source, { dvipa, destination: event.selector.destination.address });
  }
}
