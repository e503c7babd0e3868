import type { Clock } from "../../core/clock.ts";
import type { Counters } from "../../core/counters.ts";
import { ipToBytes } from "../../core/ip.ts";
import { RateLimit } from "../../core/rate-limit.ts";
import type { SharedSa } from "../../sa/spec.ts";
import type { ConnectionKey, ConnectionTable, Presence } from "../../steer/connection-table.ts";

/** Connections that one target may ask for in a second; our choice. */
const OPENINGS_PER_SECOND = 1_000;

export interface OpenedConnectionsContext {
  readonly connections: Pick<ConnectionTable, "opened">;
  readonly serves: (target: string, dvipa: string) => boolean;
  readonly sas: () => Iterable<{ readonly sa: SharedSa }>;
  /** Which of these connections this node's own programs have. */
  readonly ownSockets: (connections: readonly ConnectionKey[]) => Promise<readonly Presence[]>;
  /** The name of this node. */
  readonly self: string;
  /** True once the node's kernel holds a lease on the tunnel. */
  readonly lease: (node: string, tunnel: number) => Promise<boolean>;
  readonly clock: Clock;
  readonly counters: Counters;
}

interface Range {
  readonly first: Uint8Array;
  readonly last: Uint8Array;
}

/**
 * Connections that targets open from a DVIPA: their answers are the target's that said so first. A target may speak for the DVIPAs
 * that it serves, to where an SA leads, and gets no connection that another target or this node has.
 */
export class OpenedConnections {
  readonly #context: OpenedConnectionsContext;
  readonly #rates = new Map<string, RateLimit>();
  /** What an SA in tunnel mode leads to, read once. */
  readonly #ranges = new WeakMap<SharedSa, readonly Range[]>();

  constructor(context: OpenedConnectionsContext) {
    this.#context = context;
  }

  /** The target's first segment waits for this: true once its answers will reach it, and it can send. */
  async open(target: string, connection: ConnectionKey): Promise<boolean> {
    const { serves, lease, self, clock, counters } = this.#context;
    const rate = this.#rates.get(target) ?? new RateLimit(OPENINGS_PER_SECOND);
    this.#rates.set(target, rate);
    if (!rate.take(clock.nowMs())) return this.#refused("tooMany");
    if (!serves(target, connection.dvipa)) {
      counters.add("targets.reportRefused");
      return false;
    }
    const tunnels = this.#tunnelsOf(connection);
    if (tunnels.size === 0) return this.#refused("noSa");
    const [isEntered] = await this.enter(target, [connection]);
    if (isEntered !== true) return false;
    const leased = await Promise.all([...tunnels].map(([tunnel, isOurs]) => lease(isOurs ? self : target, tunnel)));
    if (!leased.includes(true)) return this.#refused("noLease");
    counters.add(`steer.opened.${target}`);
    return true;
  }

  /** Connections that the target has; false for each that is not its own, or that there is no room for. */
  async enter(target: string, connections: readonly ConnectionKey[]): Promise<boolean[]> {
    const { connections: table, ownSockets, clock, counters } = this.#context;
    if (connections.length === 0) return [];
    const ours = await ownSockets(connections);
    return connections.map((connection, at) => {
      const isOurs = (ours[at] ?? "open") !== "absent";
      const admission = isOurs ? "taken" : table.opened(connection, target, clock.nowMs());
      if (admission !== "added") counters.add(`steer.openRefused.${admission}`);
      return admission === "added";
    });
  }

  #refused(reason: string): false {
    this.#context.counters.add(`steer.openRefused.${reason}`);
    return false;
  }

  /**
   * The tunnels that lead from the DVIPA to there: which one the target's kernel takes, its policies say. True for those that end at
   * this node, which sends on them for its targets.
   */
  #tunnelsOf({ dvipa, client }: ConnectionKey): ReadonlyMap<number, boolean> {
    const tunnels = new Map<number, boolean>();
    const destination = ipToBytes(client);
    for (const { sa } of this.#context.sas()) {
      if (sa.dvipa !== dvipa) continue;
      const isThere = sa.mode === "transport" ? sa.peer === client : this.#leadsTo(sa, destination);
      if (isThere) tunnels.set(sa.reqid, sa.gateway !== undefined);
    }
    return tunnels;
  }

  #leadsTo(sa: SharedSa, destination: Uint8Array): boolean {
    let ranges = this.#ranges.get(sa);
    if (ranges === undefined) {
      ranges = sa.remoteSelectors.map(({ startAddress, endAddress }) => {
        return { first: ipToBytes(startAddress), last: ipToBytes(endAddress) };
      });
      this.#ranges.set(sa, ranges);
    }
    return ranges.some(
      ({ first, last }) =>
        first.length === destination.length &&
        Buffer.compare(first, destination) <= 0 &&
        Buffer.compare(destination, last) <= 0,
    );
  }
}
