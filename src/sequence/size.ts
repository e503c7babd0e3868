/**
 * How many numbers a lease holds.
 *
 * Nodes that share an SA: from the peer's window W and the count N of nodes that hold a lease or wait for one. Measured against a
 * real kernel peer: no packet is dropped while `L <= (W/2 - R*T)/(N+1)`, when a lease that the high-water mark has left behind by
 * more than W/2 is refreshed at once. The term R*T (numbers per second times round trip) is left to the allocator's backstop,
 * which bounds the spread whatever the rates are.
 *
 * A sole holder sends in order whatever the length of its lease, so no window binds it: its lease follows its rate, so that
 * the refill comes long before the end. Before another node may join it is moved to a short lease above all it had (allocator, A7).
 */

/** The shortest lease; below `BURST_NUMBERS` it works, but a burst stops at its end (measured: fail closed, then a refill). */
const MIN_LEASE_NUMBERS = 1;

/** What one TCP sender emits at once: the initial window of RFC 6928. */
const BURST_NUMBERS = 10;

/** How long the lease of a sole holder may be, in numbers. */
export interface SoleLease {
  /** The first one, and the shortest. */
  readonly firstNumbers: number;
  readonly longestNumbers: number;
}

/**
 * Our choice. The first one holds TCP's slow start over several refills; the longest one holds half a second at 16,000
 * packets a second, and what a join or a crash burns of it is little beside a ceiling's step.
 */
export const SOLE_LEASE: SoleLease = { firstNumbers: 512, longestNumbers: 8192 };

/** A sole holder whose lease was half used within this time gets one twice as long. Our choice, in milliseconds. */
const SOLE_QUICK_MS = 100;
/** One that took longer than this gets half of it. Our choice, in milliseconds. */
const SOLE_SLOW_MS = 1000;

/** The length of a sole holder's next lease, when the last one of `numbers` was half used after `afterMs`. */
export function nextSoleNumbers({ firstNumbers, longestNumbers }: SoleLease, numbers: number, afterMs: number): number {
  if (afterMs <= SOLE_QUICK_MS) return Math.min(longestNumbers, numbers * 2);
  return afterMs >= SOLE_SLOW_MS ? Math.max(firstNumbers, Math.floor(numbers / 2)) : numbers;
}

/** Length of a lease, in numbers, of one of `sharers` nodes, at least 2. */
export function sharedLeaseNumbers(windowPackets: number, sharers: number): number {
  return Math.max(MIN_LEASE_NUMBERS, Math.floor(windowPackets / 2 / (Math.max(2, sharers) + 1)));
}

/** Whether the peer's window carries the nodes that send on an SA, for status and log. */
export interface WindowRule {
  readonly windowPackets: number;
  /** Nodes that hold a lease now, at least 1. */
  readonly holders: number;
  /** Length of each one's lease; of a sole holder's, the shortest. */
  readonly leaseNumbers: number;
  /** False: a lease that the window rule allows does not hold a burst, so senders stop and refill all the time. */
  readonly kept: boolean;
  /** What to do when it is not kept, in words; empty when it is. */
  readonly advice: string;
}

/** Applies the window rule to the nodes that hold a lease now; none counts as one. */
export function windowRule(windowPackets: number, holders: number): WindowRule {
  const count = Math.max(1, holders);
  const leaseNumbers = count === 1 ? SOLE_LEASE.firstNumbers : sharedLeaseNumbers(windowPackets, count);
  const kept = windowCarriesBursts(windowPackets, count);
  const enough = 2 * BURST_NUMBERS * (count + 1);
  const advice = kept
    ? ""
    : `the peer's anti-replay window of ${windowPackets} leaves ${count} senders ${leaseNumbers} numbers each, a TCP burst is ` +
      `${BURST_NUMBERS}: set at least ${enough} at the peer, and the same as its \`replayWindow\` in the cluster file, or give the ` +
      "DVIPA fewer targets";
  return { windowPackets, holders: count, leaseNumbers, kept, advice };
}

/** False where the peer's window is too small for `holders` senders that burst: the node says so in its log and status. */
export function windowCarriesBursts(windowPackets: number, holders: number): boolean {
  return holders <= 1 || sharedLeaseNumbers(windowPackets, holders) >= BURST_NUMBERS;
}

/** Room in the peer's window that is left to packets overtaking each other on the way, in numbers. Our choice: W/16. */
export function reorderAllowanceNumbers(windowPackets: number): number {
  return Math.floor(windowPackets / 16);
}

/**
 * The longest live range one node may have, in numbers. A holder refills when half of its credit is left, so the range
 * reaches 3/2 of a lease. Of `sharers` nodes, each may hold that much; a sole one's is not bound by the window.
 */
export function longestRangeNumbers(windowPackets: number, sharers: number, sole: SoleLease): number {
  const lease = sharers <= 1 ? sole.longestNumbers : sharedLeaseNumbers(windowPackets, sharers);
  return Math.max(1, Math.floor((lease * 3) / 2));
}

/** A grant shorter than this waits for the nodes that lag, in numbers. */
export function usefulGrantNumbers(windowPackets: number): number {
  return Math.max(1, Math.floor(windowPackets / 32));
}

/** A lease whose end lies this far behind the high-water mark is recalled, in numbers (measured rule: W/2). */
export function recallLagNumbers(windowPackets: number): number {
  return Math.floor(windowPackets / 2);
}
