/**
 * Distributed connection table (seeds: DCT): which target has a TCP connection, its own or a client's. Pure: time comes in.
 *
 *   peeked SYN ──▶ provisional ──the target has the socket──▶ confirmed ──the target says that it closed──▶ closing
 *                       │                                                                                      │
 *                       └── the target does not have it, for too long; nothing followed ──▶ gone ◀── time ─────┘
 *
 * What was peeked is not authenticated: anybody may have flipped a bit. So a segment makes a provisional entry and refreshes
 * entries, and can do nothing else; everything that lasts, and every end, is the word of the target that has the connection.
 * 1. Only the target of an entry confirms or closes it. 2. A confirmed entry never makes room for another.
 * 3. A client's provisional entries make room for another's only while it has more of them.
 * 4. A peer whose connections do not come about gets new ones by a repeated SYN only, for a while: each costs the targets a place in a queue that all
 *    peers share (RFC 4987), an answer, and a number of the SA's.
 */
import type { TcpSummary } from "../sa/packet.ts";
import { FairShare } from "./fair-share.ts";
import { QuestionSchedule } from "./question-schedule.ts";
import { SecondTry } from "./second-try.ts";

/** Limits of the table; all our choice unless a source is named. */
export interface ConnectionTableLimits {
  readonly maxEntries: number;
  /** Provisional entries that packets of one peer may make. */
  readonly maxProvisionalPerPeer: number;
  /** Entries of one peer that stay provisional by their targets' word; only repeated SYNs of it pass while it has so many. */
  readonly maxDoubtedPerPeer: number;
  /** Connections that one target has opened itself. */
  readonly maxOpenedPerTarget: number;
  /** A SYN that nothing followed. */
  readonly provisionalIdleMs: number;
  /** A handshake takes a round trip: what a target says of a younger entry is no reason for doubt. */
  readonly doubtAfterMs: number;
  /** A target that does not have the connection by then will not have it: the client's next SYN may go to another. */
  readonly provisionalGraceMs: number;
  /** What has passed may not have come to its target yet for this long: it waits for a lease for 1 s at most. */
  readonly arrivalMs: number;
  /** Above RFC 5382's REQ-5 minimum of 2 hours 4 minutes for an established TCP connection. */
  readonly confirmedIdleMs: number;
  /** Late segments still go to the kernel that answers them: Linux's TIME_WAIT (`TCP_TIMEWAIT_LEN`). */
  readonly closingIdleMs: number;
}

const CONNECTION_TABLE_LIMITS: ConnectionTableLimits = {
  maxEntries: 65_536,
  maxProvisionalPerPeer: 4_096,
  maxDoubtedPerPeer: 256,
  maxOpenedPerTarget: 16_384,
  provisionalIdleMs: 30_000,
  doubtAfterMs: 450,
  provisionalGraceMs: 10_000,
  arrivalMs: 2_000,
  confirmedIdleMs: 7_500_000,
  closingIdleMs: 60_000,
};

/** Refused SYNs that are remembered: those of 3 s of a flood of 20,000 a second. Our choice. */
const MAX_REFUSED = 65_536;

/** A TCP connection to a DVIPA, seen from the client. */
export interface ConnectionKey {
  readonly client: string;
  readonly clientPort: number;
  readonly dvipa: string;
  readonly port: number;
}

export type ConnectionState = "provisional" | "confirmed" | "closing";

export interface Connection extends ConnectionKey {
  readonly target: string;
  readonly state: ConnectionState;
  readonly lastSeenMs: number;
}

/** What a target found when it was asked for a connection; `closing`: only late segments are answered. */
export type Presence = "open" | "halfOpen" | "closing" | "absent";

/** What a target said of a connection. */
export interface Answer {
  readonly target: string;
  readonly presence: Presence;
  /** When it was asked: what has passed since then, it may not have seen. */
  readonly askedMs: number;
}

/** What became of a new connection. */
export type Admission = "added" | "tableFull" | "tooManyHalfOpen";
/** What became of one that a target has opened; `taken`: another target has it. */
export type OpenedAdmission = "added" | "tableFull" | "taken" | "tooManyOpened";

interface Entry extends Connection {
  readonly name: string;
  /** Whose packet made it, while it is provisional. */
  readonly peer: string;
  /** Its target has opened it, and counts it among its own. */
  readonly isOpened: boolean;
  state: ConnectionState;
  readonly sinceMs: number;
  lastSeenMs: number;
  /** When its target last spoke of it. */
  readonly provenMs: number;
  /** Its target has said, late enough, that the client has not finished its handshake. */
  isDoubted: boolean;
}

export class ConnectionTable {
  readonly #limits: ConnectionTableLimits;
  /** In order of last use, oldest first, per state: eviction and expiry look at the fronts only. */
  readonly #byState: Record<ConnectionState, Map<string, Entry>> = {
    provisional: new Map(),
    confirmed: new Map(),
    closing: new Map(),
  };
  readonly #provisional = new FairShare();
  /** Doubted entries of each peer that has some. */
  readonly #doubted = new Map<string, number>();
  readonly #secondTry = new SecondTry(MAX_REFUSED);
  readonly #questions = new QuestionSchedule();
  /** Provisional and confirmed connections of each target that has some. */
  readonly #open = new Map<string, number>();
  /** Of these, those that the target has opened itself. */
  readonly #opened = new Map<string, number>();
  #evicted = 0;

  constructor(limits: ConnectionTableLimits = CONNECTION_TABLE_LIMITS) {
    this.#limits = limits;
  }

  get size(): number {
    const { provisional, confirmed, closing } = this.#byState;
    return provisional.size + confirmed.size + closing.size;
  }

  /** Entries that made room for others since the start. */
  get evicted(): number {
    return this.#evicted;
  }

  /** The entry that owns this segment, refreshed; null when a target has yet to be chosen. */
  follow(key: ConnectionKey, tcp: TcpSummary, nowMs: number): Connection | null {
    const entry = this.#find(keyOf(key));
    if (entry === null) return null;
    // A new SYN on a connection that is closing is the port's next use: its target is chosen afresh.
    if (isFirstSyn(tcp) && entry.state === "closing") {
      this.#take(entry);
      return null;
    }
    this.#touch(entry, nowMs);
    return entry;
  }

  /** Whose it is; null when nobody has it. Changes nothing. */
  targetOf(key: ConnectionKey): string | null {
    return this.#find(keyOf(key))?.target ?? null;
  }

  /**
   * Enters a connection whose SYN has just been peeked, in a packet of `peer`. Makes room at the cost of what is over, then of the
   * peer that has the most provisional entries; `tableFull` when that is the newcomer and it has nothing to give. `tooManyHalfOpen`
   * while too many of the peer's connections have not come about, and the SYN is not a repeated one.
   */
  add(key: ConnectionKey, target: string, peer: string, nowMs: number): Admission {
    const isDoubted = (this.#doubted.get(peer) ?? 0) >= this.#limits.maxDoubtedPerPeer;
    if (isDoubted && !this.#secondTry.isSecond(keyOf(key), nowMs)) return "tooManyHalfOpen";
    if (this.#provisional.countOf(peer) >= this.#limits.maxProvisionalPerPeer)
      this.#evict(this.#provisional.oldestOf(peer));
    else if (this.size >= this.#limits.maxEntries && !this.#makeRoomFor(peer)) return "tableFull";
    this.#enter(key, target, "provisional", peer, nowMs);
    return "added";
  }

  /**
   * Connections to ask their targets for now, at most `max`: provisional ones soon and again and again, closing ones that are
   * still in use, confirmed ones now and then, should a notice have been lost.
   */
  questions(nowMs: number, max: number): Connection[] {
    return this.#questions.take(nowMs, max).flatMap((name) => {
      const entry = this.#find(name);
      return entry === null ? [] : [entry];
    });
  }

  /** What a target said about a connection that it was asked for. Of another target's, nothing is believed. */
  answered(key: ConnectionKey, { target, presence, askedMs }: Answer, nowMs: number): void {
    const entry = this.#find(keyOf(key));
    if (entry === null || entry.target !== target) return;
    if (presence === "open") this.#become(entry, "confirmed", nowMs);
    else if (presence === "closing") this.#over(entry, nowMs);
    else if (presence === "absent") this.#absent(entry, askedMs, nowMs);
    else this.#doubt(entry, nowMs);
  }

  /** `target` tells that its socket of this connection is gone; true when the connection was its own. */
  closed(key: ConnectionKey, target: string, nowMs: number): boolean {
    const entry = this.#find(keyOf(key));
    if (entry?.target !== target) return false;
    this.#over(entry, nowMs);
    return true;
  }

  /**
   * `target` tells of a connection that it has. False when another target has it, or when there is no room: then somebody is
   * wrong, or the table too small.
   */
  reported(key: ConnectionKey, target: string, nowMs: number): boolean {
    const entry = this.#find(keyOf(key));
    if (entry !== null) {
      if (entry.target !== target) return false;
      this.#become(entry, "confirmed", nowMs);
      return true;
    }
    if (this.size >= this.#limits.maxEntries && !this.#evictWeakest()) return false;
    this.#enter(key, target, "confirmed", "", nowMs);
    return true;
  }

  /**
   * `target` has opened this connection itself: its answers are to come. One that is closing elsewhere gives way, as it does to a
   * client's SYN; one that another target has does not.
   */
  opened(key: ConnectionKey, target: string, nowMs: number): OpenedAdmission {
    const name = keyOf(key);
    const entry = this.#find(name);
    const isOwn = entry?.target === target && entry.state !== "closing";
    if (!isOwn) {
      if (entry !== null && entry.state !== "closing") return "taken";
      if ((this.#opened.get(target) ?? 0) >= this.#limits.maxOpenedPerTarget) return "tooManyOpened";
      if (entry !== null) this.#take(entry);
      else if (this.size >= this.#limits.maxEntries && !this.#evictWeakest()) return "tableFull";
      this.#enter(key, target, "confirmed", "", nowMs, true);
    }
    // It may have closed again meanwhile: its socket tells.
    this.#questions.soon(name, nowMs);
    return "added";
  }

  /** The target has told of all that it has since `sinceMs`: what it did not name, it is asked for. */
  recheck(target: string, sinceMs: number, nowMs: number): void {
    for (const { name, target: owner, provenMs } of this.#byState.confirmed.values()) {
      if (owner === target && provenMs < sinceMs) this.#questions.soon(name, nowMs);
    }
  }

  /** Removes what has been idle for too long; returns how many. */
  expire(nowMs: number): number {
    const { provisionalIdleMs, confirmedIdleMs, closingIdleMs } = this.#limits;
    return (
      this.#expireFront("provisional", nowMs - provisionalIdleMs) +
      this.#expireFront("confirmed", nowMs - confirmedIdleMs) +
      this.#expireFront("closing", nowMs - closingIdleMs)
    );
  }

  /** All connections, least recently used first within each state. */
  list(): Connection[] {
    return Object.values(this.#byState).flatMap((table) => [...table.values()]);
  }

  /** Connections of `target` that may still carry data from it: all but the closing ones. */
  openOn(target: string): number {
    return this.#open.get(target) ?? 0;
  }

  #enter(
    key: ConnectionKey,
    target: string,
    state: ConnectionState,
    peer: string,
    nowMs: number,
    isOpened = false,
  ): void {
    const { client, clientPort, dvipa, port } = key;
    const name = keyOf(key);
    const times = { sinceMs: nowMs, lastSeenMs: nowMs, provenMs: nowMs };
    const entry = { name, client, clientPort, dvipa, port, target, state, peer, isOpened, isDoubted: false, ...times };
    this.#put(entry, nowMs);
  }

  #put(entry: Entry, nowMs: number): void {
    const { name, state, target, peer, isOpened } = entry;
    this.#byState[state].set(name, entry);
    if (state === "provisional") this.#provisional.add(peer, name);
    if (state !== "closing") addTo(this.#open, target, 1);
    if (state !== "closing" && isOpened) addTo(this.#opened, target, 1);
    if (state === "confirmed") this.#questions.rarely(name, nowMs);
    else if (state === "provisional") this.#questions.soon(name, nowMs);
  }

  #take({ name, state, target, peer, isOpened, isDoubted }: Entry): void {
    this.#byState[state].delete(name);
    this.#questions.forget(name);
    if (state === "provisional") this.#provisional.remove(peer, name);
    if (isDoubted) addTo(this.#doubted, peer, -1);
    if (state !== "closing") addTo(this.#open, target, -1);
    if (state !== "closing" && isOpened) addTo(this.#opened, target, -1);
  }

  #become(entry: Entry, state: ConnectionState, nowMs: number): void {
    this.#take(entry);
    this.#put({ ...entry, state, lastSeenMs: nowMs, provenMs: nowMs, isDoubted: false }, nowMs);
  }

  #touch(entry: Entry, nowMs: number): void {
    const { name, state } = entry;
    if (state === "closing") {
      // Its time is not prolonged by what anybody can send. But it may be the port's next connection, whose SYN came early.
      if (!this.#questions.has(name)) this.#questions.soon(name, nowMs);
      return;
    }
    const table = this.#byState[state];
    table.delete(name);
    entry.lastSeenMs = nowMs;
    table.set(name, entry);
  }

  #over(entry: Entry, nowMs: number): void {
    if (entry.state === "closing") this.#questions.forget(entry.name);
    else this.#become(entry, "closing", nowMs);
  }

  #absent(entry: Entry, askedMs: number, nowMs: number): void {
    const { provisionalGraceMs, arrivalMs } = this.#limits;
    if (entry.state !== "provisional") this.#over(entry, nowMs);
    else if (nowMs - entry.sinceMs >= provisionalGraceMs && askedMs - entry.lastSeenMs >= arrivalMs) this.#take(entry);
    else this.#doubt(entry, nowMs);
  }

  #doubt(entry: Entry, nowMs: number): void {
    if (entry.state !== "provisional" || entry.isDoubted) return;
    if (nowMs - entry.sinceMs < this.#limits.doubtAfterMs) return;
    entry.isDoubted = true;
    addTo(this.#doubted, entry.peer, 1);
  }

  #find(name: string): Entry | null {
    const { provisional, confirmed, closing } = this.#byState;
    return confirmed.get(name) ?? provisional.get(name) ?? closing.get(name) ?? null;
  }

  #expireFront(state: ConnectionState, beforeMs: number): number {
    let expired = 0;
    for (const entry of this.#byState[state].values()) {
      if (entry.lastSeenMs > beforeMs) break;
      this.#take(entry);
      expired += 1;
    }
    return expired;
  }

  #makeRoomFor(peer: string): boolean {
    if (this.#evictClosing()) return true;
    const own = this.#provisional.countOf(peer);
    return this.#evict(
      own > 0 && own >= this.#provisional.most ? this.#provisional.oldestOf(peer) : this.#provisional.oldestOfTheMost(),
    );
  }

  #evictWeakest(): boolean {
    return this.#evictClosing() || this.#evict(this.#provisional.oldestOfTheMost());
  }

  #evictClosing(): boolean {
    for (const name of this.#byState.closing.keys()) return this.#evict(name);
    return false;
  }

  #evict(name: string | null): boolean {
    const entry = name === null ? null : this.#find(name);
    if (entry === null) return false;
    this.#take(entry);
    this.#evicted += 1;
    return true;
  }
}

function addTo(counts: Map<string, number>, name: string, change: number): void {
  const count = (counts.get(name) ?? 0) + change;
  if (count > 0) counts.set(name, count);
  else counts.delete(name);
}

function keyOf({ client, clientPort, dvipa, port }: ConnectionKey): string {
  return `${client} ${clientPort} ${dvipa} ${port}`;
}

/** The SYN that opens a connection, not a SYN+ACK. */
export function isFirstSyn(tcp: TcpSummary): boolean {
  return tcp.syn && !tcp.ack && !tcp.rst;
}
