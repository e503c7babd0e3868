import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import { includes, type OnDemand } from "../../ike/on-demand.ts";
import type { SharedSa } from "../../sa/spec.ts";
import type { Acquire } from "./traps.ts";

/** Requests for an SA that are looked at in a second, of each node; our choice. */
const ACQUIRES_PER_SECOND = 10;

export interface DemandsContext {
  readonly nodeName: string;
  /** Traffic that is to bring an SA up, as the cluster file has it now. */
  readonly onDemand: () => readonly OnDemand[];
  readonly serves: (target: string, dvipa: string) => boolean;
  /** Reaches the peer that `destination` is, or is behind, unless it is there or being reached. */
  readonly demand: (dvipa: string, destination: string) => void;
  /** Has the node hold a lease on the tunnel. */
  readonly lease: (node: string, tunnel: number) => void;
  readonly clock: Clock;
  readonly counters: Counters;
}

/**
 * What nodes ask the distributor's IKE for: an SA for a packet that has none (seeds: NEWCONN). What the cluster file does not
 * allow, or who asks too often, is counted and forgotten: the kernel asks again.
 */
export class Demands {
  readonly #context: DemandsContext;
  /** Nodes that asked and have not got the SA yet, by its ends. */
  readonly #askers = new Map<string, Set<string>>();
  readonly #rates = new Map<string, RateLimit>();
  #isStopped = false;

  constructor(context: DemandsContext) {
    this.#context = context;
  }

  /** Nobody is reached any more: the goodbyes of a node that stops give traps their place back. */
  stop(): void {
    this.#isStopped = true;
  }

  traps(): readonly OnDemand[] {
    return this.#context.onDemand();
  }

  /** A node, this one or a target, has a packet that needs an SA. */
  acquire(node: string, { dvipa, destination }: Acquire): void {
    const { nodeName, serves, demand, clock, counters } = this.#context;
    if (this.#isStopped) return;
    const rate = this.#rates.get(node) ?? new RateLimit(ACQUIRES_PER_SECOND);
    this.#rates.set(node, rate);
    if (!rate.take(clock.nowMs())) {
      counters.add("acquire.tooMany");
      return;
    }
    const found = this.traps().find(
      (trap) => trap.dvipa === dvipa && trap.remote.some((one) => includes(one, destination)),
    );
    if (found === undefined || (node !== nodeName && !serves(node, dvipa))) {
      counters.add("acquire.refused");
      return;
    }
    counters.add("acquire.taken");
    const ends = endsOf(found);
    this.#askers.set(ends, (this.#askers.get(ends) ?? new Set()).add(node));
    demand(dvipa, destination);
  }

  /** Who asked for the SA gets its lease at once: its next packet would find a parked state and kill it. */
  installed(sa: SharedSa): void {
    const ends = endsOf(sa);
    for (const node of this.#askers.get(ends) ?? []) this.#context.lease(node, sa.reqid);
    this.#askers.delete(ends);
  }
}

function endsOf({ dvipa, peer }: { readonly dvipa: string; readonly peer: string }): string {
  return `${dvipa} ${peer}`;
}
