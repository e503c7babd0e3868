import { InstanceCounts, NO_INSTANCES, type StoredInstances } from "./instance-counts.ts";
import { nonceBudgetEnd } from "./nonce-budget.ts";
import { longestRangeNumbers, recallLagNumbers, reorderAllowanceNumbers } from "./size.ts";

/** Sequence numbers are 32 bits, or 64 with ESN (RFC 4303 §2.2): the first number that does not exist. */
const END_32 = 1n << 32n;
const END_64 = 1n << 64n;

/** From this part of the numbers on, the SA asks to be rekeyed. Our choice: 7/8. */
const REKEY_NUMERATOR = 7n;
const REKEY_DENOMINATOR = 8n;

/** What a node holds on one SA, as far as its messages tell. */
interface Holding {
  /** The lowest number it may still send. */
  low: bigint;
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
  readonly peer?: string | undefined;
}

/** `[first, end)` belongs to the asking node alone. */
export interface Grant {
  readonly first: bigint;
  readonly end: bigint;
  /** End of the last grant to anyone. */
  readonly highWater: bigint;
  /** Nodes that hold a live lease, the asking one included. */
  readonly holders: number;
  readonly rekeySoon: boolean;
}

/** How much a node may be granted now, and what limits it. */
export interface Room {
  /** Numbers left before the window's backstop. */
  readonly window: bigint;
  /** Numbers left that are durable. */
  readonly durable: bigint;
  /** Numbers left on the line, by number space and nonce budget; 0 is the end of the SA. */
  readonly line: bigint;
  /** Numbers until the node's own live range is as long as one may be. */
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

  constructor(registration: Registration, next: bigint, ceiling: bigint, instances: StoredInstances = NO_INSTANCES) {
    this.registration = registration;
    this.next = next;
    this.ceiling = ceiling;
    this.instances = new InstanceCounts(instances);
  }

  /** The first number that is never granted: where numbers end (RFC 4303 §2.2), or earlier, at the nonce budget. */
  get end(): bigint {
    return this.#endWith(this.instances.total);
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
    return this.isSpoilt || this.next >= (this.end / REKEY_DENOMINATOR) * REKEY_NUMERATOR;
  }

  /** A message of `node` said which number it may still send, 0 for none. Spoils the line when it names one nobody granted. */
  heard(node: string, nextUnsent: bigint): void {
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
      this.#holdings.set(node, { low: nextUnsent, end: null, recalledAtMs: null });
      return;
    }
    if (nextUnsent > holding.low) holding.low = nextUnsent;
    holding.recalledAtMs = null;
  }

  /** What `node` may be granted. `isLive` says whether a holder still counts (it does not, long after its connection went). */
  room(node: string, isLive: (node: string) => boolean): Room {
    const { windowPackets } = this.registration;
    const bound = this.#lowestOther(node, isLive);
    const reach = BigInt(windowPackets - reorderAllowanceNumbers(windowPackets));
    const own = this.#holdings.get(node);
    const longest = BigInt(longestRangeNumbers(windowPackets));
    const contiguous = own?.end === this.next;
    return {
      line: this.end > this.next ? this.end - this.next : 0n,
      durable: this.ceiling - this.next,
      window: bound === null ? this.end - this.next : bound + reach - this.next,
      own: contiguous ? own.low + longest - this.next : longest,
    };
  }

  /** Grants the next `count` numbers; the caller has checked `room`. */
  take(node: string, count: bigint, isLive: (node: string) => boolean): Grant {
    const first = this.next;
    const end = first + count;
    const own = this.#holdings.get(node);
    if (count > 0n) {
      const holdsNothing = own === undefined || (own.end !== null && own.low >= own.end);
      // A node that replaces a live lease may send from the old one until its kernel has the new one: its low stays.
      this.#holdings.set(node, { low: holdsNothing ? first : own.low, end, recalledAtMs: null });
      this.next = end;
    }
    return { first, end, highWater: end, holders: this.holderCount(node, isLive), rekeySoon: this.rekeySoon };
  }

  /** Live holders, `node` included whether it holds something or not. */
  holderCount(node: string | null, isLive: (node: string) => boolean): number {
    let count = node === null ? 0 : 1;
    for (const [name, holding] of this.#holdings) {
      if (name !== node && canSend(holding) && isLive(name)) count++;
    }
    return count;
  }

  /**
   * Holders that are to be recalled: their lease ends more than W/2 behind the high-water mark, or they stand in the way of
   * `wanted` numbers for `waiting`. Each is named again only after `repeatMs`.
   */
  laggards(waiting: string | null, wanted: bigint, nowMs: number, repeatMs: number): string[] {
    const { windowPackets } = this.registration;
    const reach = BigInt(windowPackets - reorderAllowanceNumbers(windowPackets));
    const lag = BigInt(recallLagNumbers(windowPackets));
    const found: string[] = [];
    for (const [name, holding] of this.#holdings) {
      if (name === waiting || !canSend(holding)) continue;
      const stale = this.next - (holding.end ?? holding.low) > lag;
      const inTheWay = waiting !== null && holding.low + reach < this.next + wanted;
      if (!stale && !inTheWay) continue;
      if (holding.recalledAtMs !== null && nowMs - holding.recalledAtMs < repeatMs) continue;
      holding.recalledAtMs = nowMs;
      found.push(name);
    }
    return found;
  }

  /** For status: who holds what. */
  holdings(): { node: string; low: bigint; end: bigint | null }[] {
    return [...this.#holdings].map(([node, { low, end }]) => ({ node, low, end }));
  }

  #endWith(kernelInstances: number): bigint {
    const { esn, counterNonce } = this.registration;
    const natural = esn ? END_64 : END_32;
    const budget = counterNonce ? nonceBudgetEnd(kernelInstances) : natural;
    return budget < natural ? budget : natural;
  }

  #lowestOther(node: string, isLive: (node: string) => boolean): bigint | null {
    let lowest: bigint | null = null;
    for (const [name, holding] of this.#holdings) {
      if (name === node || !canSend(holding) || !isLive(name)) continue;
      if (lowest === null || holding.low < lowest) lowest = holding.low;
    }
    return lowest;
  }
}

function canSend({ low, end }: Holding): boolean {
  return end === null || low < end;
}
