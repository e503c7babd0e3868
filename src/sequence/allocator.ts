/**
 * Who may send which sequence numbers. The invariants; tests cite their numbers.
 *
 * A1 No number is granted twice on an SA: grants are the blocks `[next, next + n)`, and `next` only grows.
 * A2 Durable before granted: `next <= ceiling`, and a ceiling is raised in memory only after the store has it.
 * A3 A restart continues at the stored ceiling, never below it: what was granted before the crash lies below.
 * A4 A failed write ends all granting, for the life of this process: nobody knows what is on the disk.
 * A5 An SA is granted from only under the current epoch of its DVIPA. A retired SA is never registered again.
 * A6 Numbers end at 2^32 - 1, or 2^64 - 1 with ESN (RFC 4303 §2.2, §3.3.3): then only a new SA helps.
 * A7 Window backstop: a grant to one node ends at most W - reorder allowance above the lowest number that any other live
 *    holder may still send. A node's own low does not bind it: its kernel sends in order, and never from an old lease
 *    after a new one. So a sole holder's lease may be longer than W; a node that joins then waits until the holder has moved
 *    to a short lease above it, and what it sent before has settled.
 * A8 A node that claims numbers which it was never granted spoils the SA: some number may have been sent twice already,
 *    so nothing more is granted, not after a restart either, and the owner is asked to rekey.
 * A9 Nonce budget (`nonce-budget.ts`): `next` never passes the end that the counted kernel instances of the key leave. An instance
 *    is counted, durably, before it may send; one that the spent numbers leave no room for is refused, and a rekey asked for.
 *
 * A holder whose connection is gone stops counting for A7 after a grace time. That is safe for A1: its numbers stay spent. It
 * costs, at most, packets that it sends late from its old lease and that the peer drops as too old.
 * After a restart of this service A7 knows only holders that it has heard of since; the others are recalled as they come back.
 */
import type { Clock, Timer } from "../core/clock.ts";
import type { Counters } from "../core/counters.ts";
import { EsplexError, isError, messageOf } from "../core/errors.ts";
import { type Entry, type Waiter, entryOf, sameLine } from "./allocator-entry.ts";
import {
  type AllocatorEvents,
  type AllocatorLimits,
  type AllocatorOptions,
  DEFAULT_ALLOCATOR_LIMITS,
} from "./allocator-options.ts";
import type { CeilingStore } from "./ceiling-store.ts";
import { max, min } from "../core/bigint.ts";
import { Epochs } from "./epochs.ts";
import { Presence } from "./presence.ts";
import { NO_INSTANCES } from "./instance-counts.ts";
import { type Grant, NumberLine, type Registration, type Room, type Sharing } from "./number-line.ts";
import {
  type InstanceReport,
  type LeaseReport,
  type ReserveOutcome,
  type ReserveRequest,
  exhausted,
  staleEpoch,
  unknownSa,
  windowHeld,
} from "./reservation.ts";

/** How often waiting requests are looked at again, in milliseconds. */
const SWEEP_MS = 20;
/** How often dead SAs are looked for, in milliseconds. */
const FENCE_SWEEP_MS = 10_000;

/** Grants numbers from memory, below durable ceilings. See the invariants at the head of this file. */
export class Allocator {
  readonly #store: CeilingStore;
  readonly #clock: Clock;
  readonly #counters: Counters;
  readonly #events: AllocatorEvents;
  readonly #limits: AllocatorLimits;
  readonly #entries = new Map<string, Entry>();
  readonly #held = new Set<Entry>();
  readonly #retired: Set<string>;
  readonly #epochs: Epochs;
  readonly #presence: Presence;
  #failure: EsplexError | null = null;
  /** A ceiling rises when fewer durable numbers than this are left. */
  readonly #raiseBelowNumbers: bigint;
  #sweep: Timer | null = null;
  #fenceSweep: Timer | null = null;

  constructor(options: AllocatorOptions) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#counters = options.counters;
    this.#events = options.events;
    this.#limits = { ...DEFAULT_ALLOCATOR_LIMITS, ...options.limits };
    this.#presence = new Presence(this.#clock, this.#limits.graceMs);
    this.#raiseBelowNumbers = this.#limits.ceilingStepNumbers / 2n;
    const { sequences, epochs, retired } = options.store.initial();
    this.#epochs = new Epochs(epochs);
    this.#retired = new Set(retired);
    for (const { ceiling, instances, isSpoilt, ...registration } of sequences) {
      const isFenced = registration.epoch !== this.#epochs.current(registration.dvipa);
      const fencedAtMs = isFenced ? this.#clock.nowMs() : null;
      const line = new NumberLine(registration, ceiling, ceiling, instances, this.#limits.soleLease);
      line.isSpoilt = isSpoilt === true;
      this.#entries.set(registration.sa, entryOf(line, true, fencedAtMs));
    }
    this.#scheduleFenceSweep();
  }

  /** Why nothing is granted any more; null while all is well. */
  get failure(): EsplexError | null {
    return this.#failure;
  }

  /** Ends the timers and refuses what waits. The store is the caller's to close. */
  close(): void {
    this.#stop(new EsplexError("cluster.notServing", "the coupling service is shutting down"));
  }

  /** The owner and epoch of a DVIPA; null when nobody ever owned it. */
  ownerOf(dvipa: string): { owner: string; epoch: bigint } | null {
    return this.#epochs.get(dvipa);
  }

  /** For status: who owns what. */
  owners(): { address: string; owner: string; epoch: bigint }[] {
    return this.#epochs.all();
  }

  /** Makes `owner` the owner of `dvipa` under a new epoch, durably. From the call on, older epochs get nothing (A5). */
  async own(dvipa: string, owner: string): Promise<bigint> {
    this.#checkServing();
    const { from, to } = this.#epochs.raise(dvipa, owner);
    const nowMs = this.#clock.nowMs();
    for (const entry of this.#entries.values()) {
      if (entry.line.registration.dvipa !== dvipa) continue;
      entry.fencedAtMs ??= nowMs;
      this.#refuseWaiting(entry, staleEpoch(dvipa));
    }
    await this.#durable(this.#store.own(dvipa, from, to, owner));
    return to;
  }

  /**
   * Opens an SA's number line at `firstNumber`, or carries a known one into the current epoch: its numbers go on where they
   * were. Durable when it resolves. Rejects with `cluster.staleEpoch`, `cluster.unknownSa` (retired), `cluster.notServing`.
   */
  async register(registration: Registration): Promise<void> {
    this.#checkServing();
    const { sa, dvipa, epoch, firstNumber } = registration;
    if (epoch !== this.#epochs.current(dvipa)) throw staleEpoch(dvipa);
    if (this.#retired.has(sa)) throw new EsplexError("cluster.unknownSa", "this SA has ended", { sa });
    const known = this.#entries.get(sa);
    if (known === undefined) return this.#open(registration);
    const { line } = known;
    if (!sameLine(line.registration, registration)) {
      throw new EsplexError("cluster.notServing", "this SA is registered with another DVIPA, window, ESN or cipher", {
        sa,
      });
    }
    if (firstNumber > line.ceiling) line.isSpoilt = true;
    if (line.isSpoilt) await this.#spoilt(known);
    if (line.registration.epoch === epoch) return;
    await this.#put(known, registration);
    line.registration = registration;
    known.fencedAtMs = null;
    this.#events.changed?.({ kind: "carried", registration });
  }

  /** Ends an SA's number line for good; unknown ones are fine. */
  async retire(sa: string): Promise<void> {
    this.#checkServing();
    const entry = this.#entries.get(sa);
    if (entry === undefined) return;
    this.#entries.delete(sa);
    this.#held.delete(entry);
    this.#retired.add(sa);
    this.#events.changed?.({ kind: "retired", sa });
    this.#refuseWaiting(entry, unknownSa(sa));
    await this.#durable(this.#store.retire(sa));
  }

  /** Registration of a live SA. */
  registration(sa: string): Registration | null {
    return this.#entries.get(sa)?.line.registration ?? null;
  }

  /** Who was granted the number of a packet, of which the low 32 bits are known; null when that is not known, or no longer. */
  holderOf(sa: string, sequence: number): string | null {
    return this.#entries.get(sa)?.line.holderOf(sequence) ?? null;
  }

  /** Asks for numbers; `answer` is called once, at once where memory suffices, else when the store or other holders allow. */
  reserve(request: ReserveRequest, answer: (outcome: ReserveOutcome) => void): void {
    const entry = this.#entries.get(request.sa);
    const refused = this.#refusal(entry, request);
    if (entry === undefined || refused !== null) {
      answer({ refused: refused ?? unknownSa(request.sa) });
      return;
    }
    if (entry.waiting.size > 0) this.#replaceWaiter(entry, request.node);
    entry.line.heard(request.node, request.nextUnsent, this.#clock.nowMs());
    const outcome = this.#tryGrant(entry, request);
    if (outcome !== null) answer(outcome);
    else entry.waiting.set(request.node, { request, deadlineMs: this.#clock.nowMs() + this.#limits.waitMs, answer });
    // What the node said about itself may be what others wait for.
    if (entry.waiting.size > 0) this.#serve(entry);
  }

  /**
   * Counts the kernel states of a key that may send (A9). Resolves when the count is durable: only then may the new one send.
   * Rejects with `cluster.exhausted` when the numbers spent so far leave no room for it, and as `reserve` does.
   */
  async countInstances(report: InstanceReport): Promise<void> {
    const entry = this.#entries.get(report.sa);
    const refused = this.#refusal(entry, report);
    if (entry === undefined || refused !== null) throw refused ?? unknownSa(report.sa);
    const { line } = entry;
    const growth = line.instances.growth(report);
    if (line.isSpoilt || !line.carries(growth)) {
      this.#counters.add("allocator.instancesRefused");
      this.#tellRekey(entry);
      throw exhausted(line);
    }
    if (growth > 0) {
      line.instances.keep(report);
      entry.counted = this.#put(entry, line.registration);
      if (line.rekeySoon) this.#tellRekey(entry);
    }
    // Also of a report that came before: its write may still be under way.
    await entry.counted;
  }

  /**
   * A node's kernel can send nothing on the SA any more. `nextUnsent` is 0, or lies above numbers that the kernel may have used
   * without a lease: then the SA is spoilt (A8), durably when it resolves.
   */
  async release(sa: string, node: string, nextUnsent = 0n): Promise<void> {
    const entry = this.#entries.get(sa);
    if (entry === undefined) return;
    entry.line.heard(node, 0n, this.#clock.nowMs());
    if (nextUnsent !== 0n) entry.line.isSpoilt = true;
    this.#serve(entry);
    if (entry.line.isSpoilt) await this.#spoilt(entry);
  }

  /** A node that was recalled says from where on its kernel sends now: others wait for it. One under an old epoch is not heard. */
  report({ sa, node, epoch, nextUnsent }: LeaseReport): void {
    const entry = this.#entries.get(sa);
    if (entry === undefined || this.#refusal(entry, { sa, epoch }) !== null) return;
    entry.line.heard(node, nextUnsent, this.#clock.nowMs());
    this.#serve(entry);
    if (entry.line.isSpoilt) this.#tellRekey(entry);
  }

  /** A node's connection stands: it counts, and hears about leases that it may still hold from before a restart. */
  connected(node: string): void {
    this.#presence.connected(node);
    for (const [sa, { line, isRestored }] of this.#entries) {
      if (isRestored) this.#events.recall(node, sa, line.next, this.holderCount(line));
    }
  }

  /** A node's connection is gone: after the grace time its leases no longer bind others. */
  disconnected(node: string): void {
    this.#presence.disconnected(node);
    for (const { waiting } of this.#held) {
      waiting.get(node)?.answer({ refused: windowHeld("its connection is gone") });
      waiting.delete(node);
    }
  }

  /** For status: every line with its holders. */
  lines(): readonly NumberLine[] {
    return [...this.#entries.values()].map((entry) => entry.line);
  }

  /** Nodes that hold a live lease on one of `lines()`, or wait for one. */
  holderCount(line: NumberLine): number {
    const entry = this.#entries.get(line.registration.sa);
    return entry === undefined ? 0 : line.holderCount(null, this.#sharing(entry));
  }

  #sharing({ waiting }: Entry): Sharing {
    return { nowMs: this.#clock.nowMs(), isLive: this.#presence.isLive, waiting };
  }

  #refusal(entry: Entry | undefined, { sa, epoch }: Pick<ReserveRequest, "sa" | "epoch">): EsplexError | null {
    if (this.#failure !== null) return this.#failure;
    if (entry === undefined) return unknownSa(sa);
    const { registration } = entry.line;
    const current = this.#epochs.current(registration.dvipa);
    if (epoch !== current || registration.epoch !== current) return staleEpoch(registration.dvipa);
    return null;
  }

  #replaceWaiter(entry: Entry, node: string): void {
    const earlier = entry.waiting.get(node);
    entry.waiting.delete(node);
    earlier?.answer({ refused: windowHeld("a later request took its place") });
  }

  /** The outcome as far as it is certain now; null when the request has to wait. */
  #tryGrant(entry: Entry, request: ReserveRequest): ReserveOutcome | null {
    const { line } = entry;
    const sharing = this.#sharing(entry);
    const room = line.room(request.node, sharing);
    if (line.isSpoilt || room.line === 0n) {
      this.#tellRekey(entry);
      return { refused: exhausted(line) };
    }
    const leastUseful = line.usefulNumbers;
    const wanted = min(BigInt(request.count), min(room.line, max(room.own, leastUseful)));
    const useful = min(wanted, leastUseful);
    const granted = min(wanted, max(room.window, 0n));
    if (granted < wanted) this.#recall(entry, request.node, wanted);
    if (granted < useful) return null;
    if (granted > room.durable) {
      this.#raise(entry, granted);
      return null;
    }
    return { grant: this.#grant(entry, request, granted, room, sharing) };
  }

  #grant(entry: Entry, request: ReserveRequest, count: bigint, room: Room, sharing: Sharing): Grant {
    const { line } = entry;
    const grant = line.take(request.node, count, sharing);
    this.#events.granted(request, grant);
    if (room.durable - count < this.#raiseBelowNumbers) this.#raise(entry, 0n);
    // The asker's own lease ends at `next`: where nobody else holds one, nobody lags.
    if (line.holdingCount > 1) this.#recall(entry, null, 0n);
    if (grant.rekeySoon) this.#tellRekey(entry);
    return grant;
  }

  /** Answers what waits on one SA, as far as it can be answered now. A later request may go before one that stays held up. */
  #serve(entry: Entry): void {
    const nowMs = this.#clock.nowMs();
    for (const [node, waiter] of entry.waiting) {
      const outcome = this.#tryGrant(entry, waiter.request) ?? this.#overdue(waiter, nowMs);
      if (outcome === null) continue;
      entry.waiting.delete(node);
      waiter.answer(outcome);
    }
    if (entry.waiting.size === 0) this.#held.delete(entry);
    else this.#held.add(entry);
    this.#scheduleSweep();
  }

  #overdue(waiter: Waiter, nowMs: number): ReserveOutcome | null {
    if (nowMs < waiter.deadlineMs) return null;
    this.#counters.add("allocator.windowHeld");
    return { refused: windowHeld("other nodes hold older numbers, or the disk is slow") };
  }

  #recall(entry: Entry, waiting: string | null, wanted: bigint): void {
    const { line } = entry;
    for (const node of line.laggards(waiting, wanted, this.#clock.nowMs(), this.#limits.recallRepeatMs)) {
      this.#counters.add("allocator.recalls");
      this.#events.recall(node, line.registration.sa, line.next, line.holderCount(waiting, this.#sharing(entry)));
    }
  }

  #tellRekey(entry: Entry): void {
    if (entry.line.isSpoilt) {
      this.#spoilt(entry).catch(() => {
        // `#durable` has stopped the allocator and refused what waits.
      });
    }
    if (entry.rekeyTold) return;
    entry.rekeyTold = true;
    const { sa, dvipa } = entry.line.registration;
    this.#events.rekeySoon(sa, dvipa);
  }

  /** Writes down, once, that nothing more may be granted on a line (A8). */
  #spoilt(entry: Entry): Promise<void> {
    if (entry.spoilt !== null) return entry.spoilt;
    this.#counters.add("allocator.spoilt");
    entry.spoilt = this.#put(entry, entry.line.registration);
    this.#tellRekey(entry);
    return entry.spoilt;
  }

  /** Raises the ceiling so that `count` more numbers fit, in big steps; one write per SA at a time. */
  #raise(entry: Entry, count: bigint): void {
    const { line } = entry;
    if (entry.isRaising || line.ceiling >= line.end) return;
    entry.isRaising = true;
    const from = entry.toldCeiling;
    const to = min(line.end, max(from, line.next + count) + this.#limits.ceilingStepNumbers);
    entry.toldCeiling = to;
    this.#durable(this.#store.raise(line.registration.sa, from, to)).then(
      () => {
        entry.isRaising = false;
        line.ceiling = to;
        if (this.#entries.get(line.registration.sa) === entry) {
          this.#events.changed?.({ kind: "raised", sa: line.registration.sa, ceiling: to });
        }
        this.#serve(entry);
      },
      () => {
        // `#durable` has stopped the allocator and refused what waits.
      },
    );
  }

  async #open(registration: Registration): Promise<void> {
    if (this.#entries.size >= this.#limits.maxSas) {
      throw new EsplexError("cluster.notServing", `more than ${this.#limits.maxSas} SAs`);
    }
    const { sa, firstNumber } = registration;
    const line = new NumberLine(registration, firstNumber, firstNumber, NO_INSTANCES, this.#limits.soleLease);
    const entry = entryOf(line, false, null);
    // Until the store has it, the ceiling is the first number: nothing can be granted.
    entry.isRaising = true;
    this.#entries.set(sa, entry);
    const ceiling = min(line.end, firstNumber + this.#limits.ceilingStepNumbers);
    entry.toldCeiling = ceiling;
    await this.#durable(this.#store.put({ ...registration, ceiling, instances: NO_INSTANCES }, null));
    entry.isRaising = false;
    line.ceiling = ceiling;
    if (this.#entries.get(sa) !== entry) return;
    this.#events.changed?.({ kind: "opened", registration, ceiling });
    this.#serve(entry);
  }

  /** Writes a known line anew: under another epoch, or with more instances. */
  #put({ line, toldCeiling: ceiling }: Entry, registration: Registration): Promise<void> {
    const { instances, isSpoilt } = line;
    return this.#durable(
      this.#store.put({ ...registration, ceiling, instances: instances.stored(), isSpoilt }, ceiling),
    );
  }

  /** Waits for a write; a failed one ends all granting (A4). */
  async #durable(write: Promise<void>): Promise<void> {
    try {
      await write;
    } catch (error) {
      const failure = isError(error, "store.")
        ? error
        : new EsplexError("store.failed", `the ceiling store failed: ${messageOf(error)}`, {}, error);
      this.#stop(failure);
      throw failure;
    }
    if (this.#failure !== null) throw this.#failure;
  }

  #stop(reason: EsplexError): void {
    if (this.#failure !== null) return;
    this.#failure = reason;
    this.#sweep?.cancel();
    this.#fenceSweep?.cancel();
    for (const entry of this.#entries.values()) this.#refuseWaiting(entry, reason);
    this.#events.stopped(reason);
  }

  #refuseWaiting(entry: Entry, refused: EsplexError): void {
    const waiting = [...entry.waiting.values()];
    entry.waiting.clear();
    for (const waiter of waiting) waiter.answer({ refused });
  }

  #checkServing(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  #scheduleSweep(): void {
    if (this.#sweep !== null || this.#held.size === 0 || this.#failure !== null) return;
    this.#sweep = this.#clock.after(SWEEP_MS, () => {
      this.#sweep = null;
      for (const entry of [...this.#held]) this.#serve(entry);
    });
  }

  #scheduleFenceSweep(): void {
    this.#fenceSweep = this.#clock.after(FENCE_SWEEP_MS, () => {
      const before = this.#clock.nowMs() - this.#limits.fencedKeepMs;
      const dead = [...this.#entries].filter(([, { fencedAtMs }]) => fencedAtMs !== null && fencedAtMs <= before);
      Promise.all(dead.map(([sa]) => this.retire(sa))).then(
        () => this.#scheduleFenceSweep(),
        () => {
          // A failed write has stopped the allocator.
        },
      );
    });
  }
}
