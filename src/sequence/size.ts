/**
 * How many numbers a lease holds, from the peer's window W and the count N of nodes that hold a lease on the SA.
 *
 * Measured against a real kernel peer: no packet is dropped while `L <= (W/2 - R*T)/(N+1)`, when a lease that the
 * high-water mark has left behind by more than W/2 is refreshed at once. The term R*T (numbers per second times round
 * trip) is left to the allocator's backstop, which bounds the spread whatever the rates are. A sole holder sends in order, so
 * only the node that joins it next limits its lease: half a window.
 */

/** The shortest lease; below `BURST_NUMBERS` it works, but a burst stops at its end (measured: fail closed, then a refill). */
const MIN_LEASE_NUMBERS = 1;

/** What one TCP sender emits at once: the initial window of RFC 6928. */
const BURST_NUMBERS = 10;

/** Length of a lease, in numbers. `holders` counts the asking node. */
export function leaseSizeNumbers(windowPackets: number, holders: number): number {
  const half = Math.floor(windowPackets / 2);
  return Math.max(MIN_LEASE_NUMBERS, holders <= 1 ? half : Math.floor(half / (holders + 1)));
}

/** Whether the peer's window carries the nodes that send on an SA, for status and log. */
export interface WindowRule {
  readonly windowPackets: number;
  /** Nodes that hold a lease now, at least 1. */
  readonly holders: number;
  readonly leaseNumbers: number;
  /** False: a lease that the window rule allows does not hold a burst, so senders stop and refill all the time. */
  readonly kept: boolean;
  /** What to do when it is not kept, in words; empty when it is. */
  readonly advice: string;
}

/** Applies the window rule to the nodes that hold a lease now; none counts as one. */
export function windowRule(windowPackets: number, holders: number): WindowRule {
  const count = Math.max(1, holders);
  const leaseNumbers = leaseSizeNumbers(windowPackets, count);
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
  return leaseSizeNumbers(windowPackets, holders) >= BURST_NUMBERS;
}

/** Room in the peer's window that is left to packets overtaking each other on the way, in numbers. Our choice: W/16. */
export function reorderAllowanceNumbers(windowPackets: number): number {
  return Math.floor(windowPackets / 16);
}

/**
 * The longest live range one node may have, in numbers. A holder refills when half of its credit is left, so the range
 * reaches 3/2 of a lease, and a sole holder's lease is W/2. The rest of the window is what a joining node starts with.
 */
export function longestRangeNumbers(windowPackets: number): number {
  return Math.max(1, Math.floor((windowPackets * 3) / 4));
}

/** A grant shorter than this waits for the nodes that lag, in numbers. */
export function usefulGrantNumbers(windowPackets: number): number {
  return Math.max(1, Math.floor(windowPackets / 32));
}

/** A lease whose end lies this far behind the high-water mark is recalled, in numbers (measured rule: W/2). */
export function recallLagNumbers(windowPackets: number): number {
  return Math.floor(windowPackets / 2);
}
