import type { TcpSummary } from "../sa/packet.ts";

/** Limits of the distributed connection table. All are our choice until the targets report closes themselves. */
export interface ConnectionTableLimits {
  /** Entries; the oldest provisional one makes room, else the oldest that is closing, else the oldest of all. */
  readonly maxEntries: number;
  /** A SYN that nothing followed. */
  readonly provisionalIdleMs: number;
  /** Above RFC 5382's REQ-5 minimum of 2 hours 4 minutes for an established TCP connection. */
  readonly establishedIdleMs: number;
  /** After the client's FIN or RST; twice the maximum segment lifetime (RFC 9293 §3.4.2: 2 minutes) covers late segments. */
  readonly closingIdleMs: number;
}

const CONNECTION_TABLE_LIMITS: ConnectionTableLimits = {
  maxEntries: 65_536,
  provisionalIdleMs: 30_000,
  establishedIdleMs: 7_500_000,
  closingIdleMs: 240_000,
};

/** A TCP connection to a DVIPA, seen from the client. */
export interface ConnectionKey {
  readonly client: string;
  readonly clientPort: number;
  readonly dvipa: string;
  readonly port: number;
}

/**
 * `provisional`: a SYN was seen, unauthenticated. `established`: later segments were seen. `closing`: the client sent FIN
 * or RST; data may still flow the other way.
 */
export type ConnectionState = "provisional" | "established" | "closing";

export interface Connection extends ConnectionKey {
  readonly target: string;
  readonly state: ConnectionState;
  readonly lastSeenMs: number;
}

/**
 * Distributed connection table (seeds: DCT): which target has a connection. Fed by peeked segments, so nothing in it is
 * proof of anything. Bounded; expires by idle time. Pure: time comes in.
 */
export class ConnectionTable {
  readonly #limits: ConnectionTableLimits;
  /** In order of last use, oldest first, per state: eviction and expiry look at the fronts only. */
  readonly #byState: Record<ConnectionState, Map<string, Connection>> = {
    provisional: new Map(),
    established: new Map(),
    closing: new Map(),
  };
  /** Provisional and established connections of each target that has some. */
  readonly #open = new Map<string, number>();

  constructor(limits: ConnectionTableLimits = CONNECTION_TABLE_LIMITS) {
    this.#limits = limits;
  }

  get size(): number {
    const { provisional, established, closing } = this.#byState;
    return provisional.size + established.size + closing.size;
  }

  /** The entry that owns this segment, refreshed; null when a target has yet to be chosen. */
  follow(key: ConnectionKey, tcp: TcpSummary, nowMs: number): Connection | null {
    const name = keyOf(key);
    const known = this.#find(name);
    if (known === null) return null;
    // A new SYN on a connection that was closing is the port's next use: its target is chosen afresh.
    if (isFirstSyn(tcp) && known.state === "closing") {
      this.#take(name, known);
      return null;
    }
    const connection: Connection = { ...known, state: nextState(known.state, tcp), lastSeenMs: nowMs };
    this.#take(name, known);
    this.#put(name, connection);
    return connection;
  }

  /** Enters a connection whose SYN has just been seen. Returns what had to go to make room. */
  add(key: ConnectionKey, target: string, nowMs: number): Connection | null {
    const evicted = this.size >= this.#limits.maxEntries ? this.#evictOldest() : null;
    this.#put(keyOf(key), { ...key, target, state: "provisional", lastSeenMs: nowMs });
    return evicted;
  }

  /** Removes what has been idle for too long; returns how many. */
  expire(nowMs: number): number {
    const { provisionalIdleMs, establishedIdleMs, closingIdleMs } = this.#limits;
    return (
      this.#expireFront("provisional", nowMs - provisionalIdleMs) +
      this.#expireFront("established", nowMs - establishedIdleMs) +
      this.#expireFront("closing", nowMs - closingIdleMs)
    );
  }

  /** Removes every connection for which `gone` is true (its target left, its DVIPA went); returns how many. */
  removeWhere(gone: (connection: Connection) => boolean): number {
    let removed = 0;
    for (const table of Object.values(this.#byState)) {
      for (const [name, connection] of table) {
        if (gone(connection)) {
          this.#take(name, connection);
          removed += 1;
        }
      }
    }
    return removed;
  }

  /** All connections, least recently used first within each state. */
  list(): Connection[] {
    return Object.values(this.#byState).flatMap((table) => [...table.values()]);
  }

  /** Connections of `target` that may still carry data from it: all but the closing ones. */
  openOn(target: string): number {
    return this.#open.get(target) ?? 0;
  }

  #put(name: string, connection: Connection): void {
    this.#byState[connection.state].set(name, connection);
    if (connection.state !== "closing") this.#open.set(connection.target, this.openOn(connection.target) + 1);
  }

  #take(name: string, { state, target }: Connection): void {
    this.#byState[state].delete(name);
    if (state === "closing") return;
    const left = this.openOn(target) - 1;
    if (left > 0) this.#open.set(target, left);
    else this.#open.delete(target);
  }

  #find(name: string): Connection | null {
    const { provisional, established, closing } = this.#byState;
    return established.get(name) ?? provisional.get(name) ?? closing.get(name) ?? null;
  }

  #expireFront(state: ConnectionState, beforeMs: number): number {
    let expired = 0;
    for (const [name, connection] of this.#byState[state]) {
      if (connection.lastSeenMs > beforeMs) break;
      this.#take(name, connection);
      expired += 1;
    }
    return expired;
  }

  #evictOldest(): Connection | null {
    const { provisional, closing, established } = this.#byState;
    for (const table of [provisional, closing, established]) {
      for (const [name, connection] of table) {
        this.#take(name, connection);
        return connection;
      }
    }
    return null;
  }
}

function keyOf({ client, clientPort, dvipa, port }: ConnectionKey): string {
  return `${client} ${clientPort} ${dvipa} ${port}`;
}

/** The SYN that opens a connection, not a SYN+ACK. */
export function isFirstSyn(tcp: TcpSummary): boolean {
  return tcp.syn && !tcp.ack && !tcp.rst;
}

function nextState(state: ConnectionState, tcp: TcpSummary): ConnectionState {
  if (tcp.fin || tcp.rst) return "closing";
  if (tcp.syn) return state;
  return state === "provisional" ? "established" : state;
}
