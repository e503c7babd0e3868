import type { IpsecProtocol } from "../sa/suite.ts";
import { InstanceCounts, NO_INSTANCES, type StoredInstances } from "./instance-counts.ts";
import { nonceBudgetEnd } from "./nonce-budget.ts";
import { RecentGrants } from "./recent-grants.ts";
import {
  longestRangeNumbers,
  recallLagNumbers,
  reorderAllowanceNumbers,
  sharedLeaseNumbers,
  SOLE_LEASE,
  type SoleLease,
  usefulGrantNumbers,
} from "./size.ts";

/** Sequence numbers are 32 bits, or 64 with ESN (RFC 4303 §2.2): the first number that does not exist. */
const END_32 = 1n << 32n;
const END_64 = 1n << 64n;

/** From this part of the numbers on, the SA asks to be rekeyed: time for several tries at any rate. Our choice: 3/4. */
const REKEY_NUMERATOR = 3n;
const REKEY_DENOMINATOR = 4n;

/**
 * A node that leaves its numbers behind by more than the window may still have sent some of them a moment ago: they count as
 * unsent for this long, so that nobody's packets overtake them by a window. Our choice, in milliseconds.
 */
const SETTLE_MS = 10;

/** What a node holds on one SA, as far as its messages tell. */
interface Holding {
  /** The lowest number it may still send, or may have on the way: what binds others. */
  low: bigint;
  /** The lowest number it may still send. */
  nextUnsent: bigint;
  /** What `low` becomes at a time: see `SETTLE_MS`. */
  settling: { readonly low: bigint; readonly atMs: number } | null;
  /** End of its last grant; null when it was granted by a process that is no more. */
  end: bigint | null;
  recalledAtMs: number | null;
}

/** An SA as its owner registers it. */
export interface Registration {
  readonly sa: string;
  readonly dvipa: string;
  readonly epoch: bigint;
  readonly firstNumber: bigint;
  readonly windowPackets: number;
  readonly esn: boolean;
  /** The cipher makes its IV from the number: the nonce budget ends the line (`nonce-budget.ts`). */
  readonly counterNonce: boolean;
  /** SPI and destination of its packets, for the ledger: absent when the owner did not say. */
  readonly spi?: number | undefined;
  /** Of the SPI; ESP when absent. */
  readonly protocol?: IpsecProtocol | undefined;
  readonly peer?: string | undefined;
}

/** `[first, end)` belongs to the asking node alone. */
export interface Grant {
  readonly first: bigint;
  readonly end: bigint;
  /** End of the last grant to anyone. */
  readonly highWater: bigint;
  /** Nodes that hold a live lease or wait for one, the asking one included. */
  readonly holders: number;
  readonly rekeySoon: boolean;
}

/** Who shares the SA at a moment. */
export interface Sharing {
  readonly nowMs: number;
  /** Says whether a holder still counts (it does not, long after its connection went). */
  readonly isLive: (node: string) => boolean;
  /** Nodes whose requests wait. */
  readonly waiting: ReadonlySet<string> | ReadonlyMap<string, unknown>;
}

/** How much a node may be granted now, and what limits it. */
export interface Room {
  /** Numbers left before the window's backstop. */
  readonly window: bigint;
  /** Numbers left that are durable. */
  readonly durable: bigint;
  /** Numbers left on the line, by number space and nonce budget; 0 is the end of the SA. */
  readonly line: bigint;
  /** Numbers that the node may have more, by the length of leases: of a sole holder's, or of one among several. */
  readonly own: bigint;
}

/**
 * The numbers of one SA: which are spent, which are durable, and who holds which. Plain arithmetic: no clock, no disk.
 * The invariants stand in `allocator.ts`.
 */
export class NumberLine {
  registration: Registration;
  /** No number at or above it was granted; everything below is spent. */
  next: bigint;
  /** Durable: `next` never passes it. */
  ceiling: bigint;
  /** Kernel states of the key that may send. */
  readonly instances: InstanceCounts;
  /** True when a node claimed numbers that it was never granted: nothing may be granted on this line any more. */
  isSpoilt = false;
  readonly #holdings = new Map<string, Holding>();
  readonly #recent: RecentGrants;
  readonly #sole: SoleLease;
  /** What follows from the window, which never changes: how far ahead of another holder, how far behind. */
  readonly #reach: bigint;
  readonly #lag: bigint;
  /** A grant shorter than this waits for the nodes that lag. */
  readonly usefulNumbers: bigint;
  /** `end` for `#endInstances` kernel instances, and where the rekeying begins before it: both asked for with every grant. */
  #end = 0n;
  #rekeyFrom = 0n;
  #endInstances = -1;

  constructor(
    registration: Registration,
    next: bigint,
    ceiling: bigint,
    instances: StoredInstances = NO_INSTANCES,
    sole: SoleLease = SOLE_LEASE,
  ) {
    this.registration = registration;
    this.next = next;
    this.#recent = new RecentGrants(next);
    this.ceiling = ceiling;
    this.instances = new InstanceCounts(instances);
    this.#sole = sole;
    const { windowPackets } = registration;
    this.#reach = BigInt(windowPackets - reorderAllowanceNumbers(windowPackets));
    this.#lag = BigInt(recallLagNumbers(windowPackets));
    this.usefulNumbers = BigInt(usefulGrantNumbers(windowPackets));
  }

  /** The first number that is never granted: where numbers end (RFC 4303 §2.2), or earlier, at the nonce budget. */
  get end(): bigint {
    this.#refreshEnd();
    return this.#end;
  }

  /** Null for a cipher without a budget. */
  get budgetEnd(): bigint | null {
    return this.registration.counterNonce ? nonceBudgetEnd(this.instances.total) : null;
  }

  /** False when the numbers that are spent already would break the budget of that many more kernel instances (A9). */
  carries(moreInstances: number): boolean {
    return this.next <= this.#endWith(this.instances.total + moreInstances);
  }

  get rekeySoon(): boolean {
    this.#refreshEnd();
    return this.isSpoilt || this.next >= this.#rekeyFrom;
  }

  /** A message of `node` said which number it may still send, 0 for none. Spoils the line when it names one nobody granted. */
  heard(node: string, nextUnsent: bigint, nowMs: number): void {
    if (nextUnsent === 0n) {
      this.#holdings.delete(node);
      return;
    }
    const holding = this.#holdings.get(node);
    if (nextUnsent > (holding?.end ?? this.next)) {
      this.isSpoilt = true;
      return;
    }
    if (holding === undefined) {
      this.#holdings.set(node, { low: nextUnsent, nextUnsent, settling: null, end: null, recalledAtMs: null });
      return;
    }
    settle(holding, nowMs);
    holding.recalledAtMs = null;
    if (nextUnsent <= holding.nextUnsent) return;
    holding.nextUnsent = nextUnsent;
    if (nextUnsent - holding.low <= this.#reach) holding.low = nextUnsent;
    else holding.settling ??= { low: nextUnsent, atMs: nowMs + SETTLE_MS };
  }

  /** What `node` may be granted. */
  room(node: string, sharing: Sharing): Room {
    const bound = this.#lowestOther(node, sharing);
    const left = this.end - this.next;
    return {
      line: left > 0n ? left : 0n,
      durable: this.ceiling - this.next,
      window: bound === null ? left : bound + this.#reach - this.next,
      own: this.#ownRoom(node, this.holderCount(node, sharing)),
    };
  }

  /** Grants the next `count` numbers; the caller has checked `room`. */
  take(node: string, count: bigint, sharing: Sharing): Grant {
    const first = this.next;
    const end = first + count;
    const own = this.#holdings.get(node);
    if (count > 0n) {
      if (own === undefined) {
        this.#holdings.set(node, { low: first, nextUnsent: first, settling: null, end, recalledAtMs: null });
      } else {
        // A node that replaces a live lease may send from the old one until its kernel has the new one: its low stays.
        if (!canSend(own)) Object.assign(own, { low: first, nextUnsent: first, settling: null });
        own.end = end;
        own.recalledAtMs = null;
      }
      this.next = end;
      this.#recent.add(node, end);
    }
    return { first, end, highWater: end, holders: this.holderCount(node, sharing), rekeySoon: this.rekeySoon };
  }

  /** Nodes that hold a live lease or wait for one, `node` included whether it does or not. */
  holderCount(node: string | null, { isLive, waiting }: Sharing): number {
    let count = node === null ? 0 : 1;
    for (const [name, holding] of this.#holdings) {
      if (name !== node && !waiting.has(name) && canSend(holding) && isLive(name)) count++;
    }
    for (const name of waiting.keys()) if (name !== node) count++;
    return count;
  }

  /**
   * Holders that are to be recalled: their lease ends more than W/2 behind the high-water mark, or they stand in the way of
   * `wanted` numbers for `waiting`. Each is named again only after `repeatMs`.
   */
  laggards(waiting: string | null, wanted: bigint, nowMs: number, repeatMs: number): string[] {
    const found: string[] = [];
    for (const [name, holding] of this.#holdings) {
      if (name === waiting || !canSend(holding)) continue;
      const stale = this.next - (holding.end ?? holding.nextUnsent) > this.#lag;
      const inTheWay = waiting !== null && holding.nextUnsent + this.#reach < this.next + wanted;
      if (!stale && !inTheWay) continue;
      if (holding.recalledAtMs !== null && nowMs - holding.recalledAtMs < repeatMs) continue;
      holding.recalledAtMs = nowMs;
      found.push(name);
    }
    return found;
  }

  /** Nodes that have said, or been granted, something they may still send. */
  get holdingCount(): number {
    return this.#holdings.size;
  }

  /**
   * The node that was granted the number of a packet, of which the low 32 bits are known (RFC 4303 §2.2.1): with ESN, the last such
   * number. Null when it was granted long ago, by an earlier process, or never.
   */
  holderOf(sequence: number): string | null {
    const low = BigInt(sequence);
    if (!this.registration.esn || this.next === 0n) return this.#recent.holderOf(low);
    const last = this.next - 1n;
    const candidate = ((last >> 32n) << 32n) | low;
    return this.#recent.holderOf(candidate > last ? candidate - END_32 : candidate);
  }

  /** For status: who holds what. */
  holdings(): { node: string; low: bigint; end: bigint | null }[] {
    return [...this.#holdings].map(([node, { low, end }]) => ({ node, low, end }));
  }

  #refreshEnd(): void {
    const { total } = this.instances;
    if (total === this.#endInstances) return;
    this.#endInstances = total;
    this.#end = this.#endWith(total);
    this.#rekeyFrom = (this.#end / REKEY_DENOMINATOR) * REKEY_NUMERATOR;
  }

  #endWith(kernelInstances: number): bigint {
    const { esn, counterNonce } = this.registration;
    const natural = esn ? END_64 : END_32;
    const budget = counterNonce ? nonceBudgetEnd(kernelInstances) : natural;
    return budget < natural ? budget : natural;
  }

  #ownRoom(node: string, sharers: number): bigint {
    const { windowPackets } = this.registration;
    const own = this.#holdings.get(node);
    const isContiguous = own?.end === this.next;
    if (isContiguous)
      return own.nextUnsent + BigInt(longestRangeNumbers(windowPackets, sharers, this.#sole)) - this.next;
    return BigInt(sharers <= 1 ? this.#sole.longestNumbers : sharedLeaseNumbers(windowPackets, sharers));
  }

  #lowestOther(node: string, { isLive, nowMs }: Sharing): bigint | null {
    let lowest: bigint | null = null;
    for (const [name, holding] of this.#holdings) {
      settle(holding, nowMs);
      if (name === node || !canSend(holding) || !isLive(name)) continue;
      if (lowest === null || holding.low < lowest) lowest = holding.low;
    }
    return lowest;
  }
}

function settle(holding: Holding, nowMs: number): void {
  if (holding.settling === null || nowMs < holding.settling.atMs) return;
  holding.low = holding.settling.low;
  holding.settling = null;
}

function canSend({ low, end }: Holding): boolean {
  return end === null || low < end;
}
